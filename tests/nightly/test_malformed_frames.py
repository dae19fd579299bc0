"""10,000 malformed frames at data ports and at the controller, from inside the network: the tokens stay right."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import short_place
from strangers import survives

MALFORMED = 10_000
TOKENS, DELAY = 120, "40 ms"  # which last as long as the attack may take on a busy host


@pytest.mark.timeout(1800)
def test_ten_thousand_malformed_frames_are_counted_and_change_no_token(tmp_path: Path) -> None:
    with short_place() as place:
        survives(place, tmp_path, TOKENS, MALFORMED, DELAY)
