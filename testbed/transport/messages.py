"""The control plane's messages: commands to a worker, and events from it.

msgspec encodes them as msgpack, and every struct carries its tag. Blocks travel by name (`head(3,7)`).
"""

from __future__ import annotations

import msgspec

from testbed.placement.plan import Plan
from testbed.words.sampling import Sampling


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all control messages; the tag is the class name."""


# --- commands: controller to worker ------------------------------------------------------------------


class PathView(msgspec.Struct, frozen=True):
    """What a receiver must know of the path from one peer."""

    delay_s: float  # one-way, wall seconds; 0 where netem adds it
    down_bps: float  # the least rate, which the receiver imposes in the local fleet; 0: the link itself does
    overlap_s: float = 0.0  # how much of the delay may pass while a message waits to take the same medium again


class Connect(Message, frozen=True):
    """Learn the peers' data addresses, once all workers are up; answered by Connected."""

    peers: dict[str, str]


class SetDevice(Message, frozen=True):
    """The device's rates from now on, in emulated units."""

    streaming_Bps: float
    compute_flops: float


class SetBudget(Message, frozen=True):
    """The memory budget from now on. The worker compares its own ledger with it."""

    budget_bytes: int


class SetPaths(Message, frozen=True):
    """Delays and, in the local fleet, rates of the paths to this device."""

    paths: dict[str, PathView]
    up_bps: float  # this device's uplink, which it imposes itself in the local fleet; 0: the link does


class Load(Message, frozen=True):
    """Load these blocks from storage before the first token; answered by Loaded."""

    blocks: list[str]
    pinned: bool


class Incoming(msgspec.Struct, frozen=True):
    """A block that will arrive, and how many payload bytes it has."""

    block: str
    source: str
    payload_bytes: int


class Prepare(Message, frozen=True):
    """Set memory aside for these blocks; answered by Prepared or Refused."""

    epoch: int
    length: int  # positions in the KV caches now
    incoming: list[Incoming]
    shipped: bool  # weights travel too; else they come from the device's own storage
    storage_Bps: float


class Transfer(Message, frozen=True):
    """Send these blocks, (block, destination) in order; answered by Sent."""

    epoch: int
    length: int
    outgoing: list[tuple[str, str]]
    shipped: bool


class Commit(Message, frozen=True):
    """Switch to this route plan between two tokens, and drop the blocks that moved away; answered by Committed."""

    plan: Plan
    drop: list[str]


class Abort(Message, frozen=True):
    """Forget what epoch `epoch` was to bring, and keep the present route plan; answered by Aborted."""

    epoch: int


class Prefill(Message, frozen=True):
    """To the source: run the prompt through in chunks of this size, then decode up to `until` tokens in all.

    Now and in every Decode that follows, it goes no further than a token in `ends`.
    """

    prompt: list[int]
    chunk: int
    until: int
    ends: tuple[int, ...] = ()
    sampling: Sampling | None = None  # None: always the token with the largest logit


class Decode(Message, frozen=True):
    """To the source: go on until `until` tokens have been generated in all."""

    until: int


class Interrupt(Message, frozen=True):
    """Drop the pass and the migration under way, and the connections to lost devices; answered by Interrupted.

    Until the next commit no pass begins, and activations of the present epoch are dropped for good.
    """

    epoch: int  # that the recovery prepares
    lost: list[str]


class Rebuild(Message, frozen=True):
    """To the source: run these ids through from position 0 on, so that every KV cache has their rows.

    It generates no token, and is answered by Rebuilt.
    """

    ids: list[int]
    chunk: int


class Probe(Message, frozen=True):
    """Send `size` bytes to a peer in frames. The first is tiny, so that the peer can time the rest."""

    peer: str
    size: int


class Ping(Message, frozen=True):
    """Send a one-row message to a peer and back, `count` times; answered by Pinged."""

    peer: str
    count: int


class Pace(Message, frozen=True):
    """Run `count` empty operations of `seconds` each; answered by Paced."""

    count: int
    seconds: float


class Collect(Message, frozen=True):
    """Hand over the spans recorded so far and the ledger; answered by Collected."""

    request: int


class Stop(Message, frozen=True):
    """End the process."""


# --- events: worker to controller ----------------------------------------------------------------------


class Hello(Message, frozen=True):
    """The worker is up: namespace, cgroup, sockets and warm-up are done. The pid is that of its own PID namespace.

    `refused` lists the kernel settings that could not be written, each with its present value and the reason.
    """

    pid: int
    address: str
    refused: tuple[str, ...] = ()


class Connected(Message, frozen=True):
    """The worker knows its peers, and messages for any of them can leave."""


class Loaded(Message, frozen=True):
    """The blocks are in memory."""

    held_bytes: int


class Prepared(Message, frozen=True):
    """There is memory for the incoming blocks of this epoch."""

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
    """All incoming blocks of the epoch are here, with their weights loaded and their checksums right."""

    epoch: int
    arrivals: list[Arrival]


class Sent(Message, frozen=True):
    """The receivers have acknowledged all outgoing blocks of the epoch."""

    epoch: int


class Committed(Message, frozen=True):
    """The worker runs the new route plan."""

    epoch: int
    held_bytes: int


class Aborted(Message, frozen=True):
    """The worker has forgotten the epoch."""

    epoch: int


class Interrupted(Message, frozen=True):
    """Nothing of a pass or a migration is left; every token has been reported before this, and `blocks` are here."""

    epoch: int
    blocks: list[str]
    tokens: int  # generated so far; 0 but on the source
    next_pass: int


class Rebuilt(Message, frozen=True):
    """All KV caches have the rows of a Rebuild."""

    epoch: int


class Token(Message, frozen=True):
    """One generated token. Times are wall (monotonic) seconds; a simulation leaves what it cannot know as None."""

    step: int
    token_id: int | None
    logits_digest: str | None
    epoch: int
    start_s: float
    end_s: float
    compute_s: float | None  # both along the critical path, wall seconds
    transfer_s: float | None


class OutOfBudget(Message, frozen=True):
    """The worker's ledger is above its budget, and the kernel has not (yet) killed it."""

    length: int
    need_bytes: int
    budget_bytes: int


class Probed(Message, frozen=True):
    """What a probe's receiver measured: the payload after the first frame, and the wall seconds that it took.

    `seconds` counts from the receipt of the first frame, `since_sent_s` from its sending.
    """

    source: str
    size: int
    seconds: float
    since_sent_s: float


class Paced(Message, frozen=True):
    """How late each operation of a Pace ended, wall seconds."""

    late_s: list[float]


class Pinged(Message, frozen=True):
    """The round-trip times of a Ping, wall seconds."""

    peer: str
    round_trips_s: list[float]


class Span(msgspec.Struct, frozen=True, array_like=True):
    """One operation or transfer; times are wall seconds."""

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
    due_s: float  # wall seconds that it should take by the device model; 0 for transfers


class Collected(Message, frozen=True):
    """The spans since the last Collect, and the ledger."""

    request: int
    spans: list[Span]
    held_bytes: int
    runqueue_wait_s: float
    strangers: int = 0  # connections so far that did not show the run's secret
    late: tuple[tuple[str, int], ...] = ()  # (sender, its activations of interrupted epochs that were dropped so far)


class Failed(Message, frozen=True):
    """The worker met a bug or bad data and ends; `reason` holds the traceback's last line."""

    reason: str
    traceback: str
    configuration: bool = False  # the user's files are the cause


Command = (
    Connect | SetDevice | SetBudget | SetPaths | Load | Prepare | Transfer | Commit | Abort | Prefill | Decode
    | Interrupt | Rebuild | Probe | Ping | Pace | Collect | Stop
)  # fmt: skip
Event = (
    Hello | Loaded | Prepared | Refused | Arrived | Sent | Committed | Aborted | Token | OutOfBudget | Probed | Pinged
    | Paced | Connected | Interrupted | Rebuilt | Collected | Failed
)  # fmt: skip

encode = msgspec.msgpack.Encoder().encode
decode_command = msgspec.msgpack.Decoder(Command).decode
decode_event = msgspec.msgpack.Decoder(Event).decode
