"""The control plane's vocabulary: commands to a worker, events from it.

Encoded as msgpack by msgspec; every struct carries its own tag. Blocks travel by name (`head(3,7)`).
"""

from __future__ import annotations

import msgspec

from testbed.placement.plan import Plan


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all control messages; the tag is the class name."""


# --- commands: controller to worker ------------------------------------------------------------------


class PathView(msgspec.Struct, frozen=True):
    """What a receiver must know about the path from one peer (and the local fleet's sender about its uplink)."""

    delay_s: float  # one-way, wall seconds; 0 where netem adds it
    down_bps: float  # min(up, down), imposed by the receiver in the local fleet; 0: the link itself does it


class Connect(Message, frozen=True):
    """Connect to the peers' data addresses, once all workers stand."""

    peers: dict[str, str]


class SetDevice(Message, frozen=True):
    """The device's rates from now on, in emulated units."""

    streaming_Bps: float
    compute_flops: float


class SetBudget(Message, frozen=True):
    """The memory budget from now on, held against the worker's own ledger."""

    budget_bytes: int


class SetPaths(Message, frozen=True):
    """Delays and, in the local fleet, rates of the paths to this device."""

    paths: dict[str, PathView]
    up_bps: float  # this device's uplink, imposed by the sender in the local fleet; 0: the link itself does it


class Load(Message, frozen=True):
    """Load these blocks from storage, before the first token."""

    blocks: list[str]
    pinned: bool


class Incoming(msgspec.Struct, frozen=True):
    """A block that will arrive, and how many payload bytes it has."""

    block: str
    source: str
    payload_bytes: int


class Prepare(Message, frozen=True):
    """Make room for these blocks; answered by Prepared or Refused."""

    epoch: int
    length: int  # tokens in the KV caches now
    incoming: list[Incoming]
    shipped: bool  # weights travel too, instead of coming from the device's own storage
    storage_Bps: float


class Transfer(Message, frozen=True):
    """Send these blocks: (block, destination), in order."""

    epoch: int
    length: int
    outgoing: list[tuple[str, str]]
    shipped: bool


class Commit(Message, frozen=True):
    """Switch to this plan between two tokens, and let go of what moved away."""

    plan: Plan
    drop: list[str]


class Abort(Message, frozen=True):
    """Forget what epoch `epoch` was going to bring; the present plan goes on."""

    epoch: int


class Prefill(Message, frozen=True):
    """To the source: run the prompt through in these chunks, then decode up to `until` tokens in all."""

    prompt: list[int]
    chunk: int
    until: int


class Decode(Message, frozen=True):
    """To the source: go on until `until` tokens have been generated in all."""

    until: int


class Probe(Message, frozen=True):
    """Send `size` bytes to a peer in frames, the first one tiny, so that the peer can time the rest."""

    peer: str
    size: int


class Ping(Message, frozen=True):
    """Bounce a one-row message off a peer `count` times."""

    peer: str
    count: int


class Pace(Message, frozen=True):
    """Run `count` empty operations of `seconds` each and tell how late each ended."""

    count: int
    seconds: float


class Collect(Message, frozen=True):
    """Hand over the spans recorded so far and the ledger."""

    request: int


class Stop(Message, frozen=True):
    """End the process."""


# --- events: worker to controller ----------------------------------------------------------------------


class Hello(Message, frozen=True):
    """The worker stands: namespace, cgroup, sockets and warm-up are done. Pids are those of its own namespace.

    `refused`: kernel knobs that could not be set, each with what it stays at and why.
    """

    pid: int
    address: str
    refused: tuple[str, ...] = ()


class Connected(Message, frozen=True):
    """Answer to Connect: messages for any peer can leave."""


class Loaded(Message, frozen=True):
    """Answer to Load."""

    held_bytes: int


class Prepared(Message, frozen=True):
    """Room is made for the incoming blocks of this epoch."""

    epoch: int


class Refused(Message, frozen=True):
    """The incoming blocks do not fit, or a transfer went wrong; `reason` is one sentence."""

    epoch: int
    reason: str


class Arrival(msgspec.Struct, frozen=True):
    """One block has arrived whole. Times are wall (monotonic) seconds at the receiver."""

    block: str
    source: str
    payload_bytes: int
    weights_bytes: int
    start_s: float
    first_byte_s: float
    last_byte_s: float
    ready_s: float


class Arrived(Message, frozen=True):
    """All incoming blocks of the epoch are here, weights loaded and checksums right."""

    epoch: int
    arrivals: list[Arrival]


class Sent(Message, frozen=True):
    """All outgoing blocks of the epoch have been acknowledged by their receivers."""

    epoch: int


class Committed(Message, frozen=True):
    """The worker runs the new plan."""

    epoch: int
    held_bytes: int


class Aborted(Message, frozen=True):
    """The worker has forgotten the epoch."""

    epoch: int


class Token(Message, frozen=True):
    """One generated token. Times are wall (monotonic) seconds. None: a simulation does not know."""

    step: int
    token_id: int | None
    logits_digest: str | None
    epoch: int
    start_s: float
    end_s: float
    compute_s: float | None  # along the critical path, wall
    transfer_s: float | None


class OutOfBudget(Message, frozen=True):
    """The worker's ledger passed its budget: an out-of-memory that the kernel had not (yet) seen."""

    length: int
    need_bytes: int
    budget_bytes: int


class Probed(Message, frozen=True):
    """What a probe's receiver measured: payload after the first frame, and the wall seconds it took.

    `seconds` from when the first frame was received, `since_sent_s` from when it was sent.
    """

    source: str
    size: int
    seconds: float
    since_sent_s: float


class Paced(Message, frozen=True):
    """Answer to Pace: how late each operation ended, wall seconds."""

    late_s: list[float]


class Pinged(Message, frozen=True):
    """Round-trip times of a Ping, wall seconds."""

    peer: str
    round_trips_s: list[float]


class Span(msgspec.Struct, frozen=True, array_like=True):
    """One operation or transfer; wall seconds."""

    step: int
    layer: int
    kind: str  # block | transfer
    block: str
    device: str
    peer: str
    start_s: float
    end_s: float
    bytes: float
    flops: float
    overrun: bool
    due_s: float  # how long the device model says it takes, wall seconds; 0 for transfers


class Collected(Message, frozen=True):
    """Answer to Collect."""

    request: int
    spans: list[Span]
    held_bytes: int
    runqueue_wait_s: float
    strangers: int = 0  # connections to the data address so far that did not show the run's secret


class Failed(Message, frozen=True):
    """The worker met a bug or bad data and ends; `reason` carries the traceback's last line."""

    reason: str
    traceback: str
    configuration: bool = False  # the user's files are at fault


Command = (
    Connect | SetDevice | SetBudget | SetPaths | Load | Prepare | Transfer | Commit | Abort | Prefill | Decode | Probe
    | Ping | Pace
    | Collect | Stop
)  # fmt: skip
Event = (
    Hello | Loaded | Prepared | Refused | Arrived | Sent | Committed | Aborted | Token | OutOfBudget | Probed | Pinged
    | Paced | Connected
    | Collected | Failed
)  # fmt: skip

encode = msgspec.msgpack.Encoder().encode
decode_command = msgspec.msgpack.Decoder(Command).decode
decode_event = msgspec.msgpack.Decoder(Event).decode
