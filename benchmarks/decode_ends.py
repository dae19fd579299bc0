"""One process of `benchmarks.decode`: `decode_ends.py WAY RANK DEVICES TOKENS`; the first prints seconds per token.

All have GPT-2 in float32 with random weights and one thread, and continue the same prompt. In a network the device of
rank 0 embeds and chooses; each device has an equal part of the heads and of the FFN of every layer.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from testbed.decoder.kernels import Floats
from testbed.decoder.reference import Reference
from testbed.decoder.store import BlockStore
from testbed.decoder.weights import RandomWeights
from testbed.models.presets import PRESETS
from testbed.placement.blocks import ATTENTION, FFN, WHOLE, Block, Partition, copies_of

SHAPE = PRESETS["gpt2"]
SHARDS = 4
SPLIT = Partition(ffn_shards=SHARDS, proj_rows=True, exchange="all-to-all")
SEED = 7
PROMPT = tuple(range(100, 116))
PORT = 5600
PATIENCE_S = 60.0
Forward = Callable[[Sequence[int], int], int]  # ids and their position -> the token that follows


def address(rank: int) -> str:
    """A device's address in the emulated network."""
    return f"10.2.0.{rank + 1}"


def timed(forward: Forward, tokens: int) -> list[float]:
    """The seconds of each token after the first one."""
    position = len(PROMPT)
    token, taken = forward(PROMPT, 0), []
    for _ in range(tokens):
        started = time.perf_counter()
        token = forward([token], position)
        taken.append(time.perf_counter() - started)
        position += 1
    return taken


def single(positions: int) -> Forward:
    """Our decoder in one process, with whole layers."""
    reference = Reference(SHAPE, RandomWeights(SHAPE, SEED, WHOLE), positions)
    return lambda ids, position: int(reference.forward(ids, position).argmax())


def by_transformers(positions: int) -> Forward:
    """GPT-2 of transformers with a KV cache."""
    import torch
    from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(1)
    model = GPT2LMHeadModel(GPT2Config(n_positions=max(1024, positions))).eval()
    cache = DynamicCache()

    def forward(ids: Sequence[int], position: int) -> int:
        with torch.inference_mode():
            out = model(torch.tensor([list(ids)]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return int(out.logits[0, -1].argmax())

    return forward


def by_llama_cpp(positions: int) -> Forward:
    """llama.cpp with a file of random weights in float32."""
    import llama_cpp

    with tempfile.TemporaryDirectory(prefix="headroom-decode-") as folder:
        model = llama_cpp.Llama(
            str(_gguf(Path(folder) / "gpt2.gguf")), n_ctx=positions, n_batch=positions, n_threads=1, n_threads_batch=1,
            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, verbose=False, use_mmap=False,
        )  # fmt: skip

    def forward(ids: Sequence[int], position: int) -> int:
        model.eval(list(ids))
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), (SHAPE.vocab,))
        return int(logits.argmax())

    return forward


def _gguf(file: Path) -> Path:
    from gguf import GGUFWriter

    random, D, F = np.random.default_rng(SEED), SHAPE.width, SHAPE.ffn_width
    writer = GGUFWriter(file, "gpt2")
    writer.add_context_length(SHAPE.positions)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(F)
    writer.add_block_count(SHAPE.layers)
    writer.add_head_count(SHAPE.heads)
    writer.add_layer_norm_eps(SHAPE.norm_epsilon)
    writer.add_vocab_size(SHAPE.vocab)
    writer.add_tokenizer_model("none")
    shapes = {"token_embd.weight": (SHAPE.vocab, D), "position_embd.weight": (SHAPE.positions, D),
              "output.weight": (SHAPE.vocab, D)}  # fmt: skip
    norms = ["output_norm"]
    for layer in range(SHAPE.layers):
        norms += [f"blk.{layer}.attn_norm", f"blk.{layer}.ffn_norm"]
        products = {"attn_qkv": (3 * D, D), "attn_output": (D, D), "ffn_up": (F, D), "ffn_down": (D, F)}
        for name, (rows, columns) in products.items():
            shapes |= {f"blk.{layer}.{name}.weight": (rows, columns), f"blk.{layer}.{name}.bias": (rows,)}
    for name, dims in shapes.items():
        writer.add_tensor(name, random.standard_normal(dims, np.float32) * np.float32(0.02))
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(D, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(D, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


# --- in a network ------------------------------------------------------------------------------------------


class Sockets:
    """A blocking connection to every other device."""

    def __init__(self, rank: int, devices: int) -> None:
        server = socket.create_server((address(rank), PORT), backlog=devices)
        self._peers: dict[int, socket.socket] = {}
        for peer in range(rank):
            self._peers[peer] = _connected(address(peer))
            self._peers[peer].sendall(bytes([rank]))
        for _ in range(rank + 1, devices):
            one, _ = server.accept()
            self._peers[one.recv(1)[0]] = one
        for one in self._peers.values():
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, peer: int, x: np.ndarray[Any, Any]) -> None:
        """Send an array."""
        self._peers[peer].sendall(x.tobytes())

    def receive(self, peer: int, dims: tuple[int, ...], kind: type = np.float32) -> Any:
        """The next array from a peer, whose dimensions are known."""
        x = np.empty(dims, kind)
        view = memoryview(x).cast("B")
        while len(view):
            view = view[self._peers[peer].recv_into(view) :]
        return x

    def to_all(self, x: np.ndarray[Any, Any]) -> None:
        """Send an array to every peer."""
        for peer in self._peers:
            self.send(peer, x)


def _connected(host: str) -> socket.socket:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection((host, PORT))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def parts(count: int, devices: int) -> list[tuple[int, ...]]:
    """The numbers below `count` in equal runs, one for each device."""
    return [tuple(range(rank * count // devices, (rank + 1) * count // devices)) for rank in range(devices)]


def by_sockets(rank: int, devices: int, positions: int) -> tuple[Forward, Sockets]:
    """Our blocks and our exchange over plain blocking sockets."""
    store = BlockStore(SHAPE, RandomWeights(SHAPE, SEED, SPLIT), positions, SPLIT)
    heads, shards = parts(SHAPE.kv_heads, devices), parts(SHARDS, devices)
    for layer in range(SHAPE.layers):
        for kind, numbers in (("head", heads[rank]), ("ffn", shards[rank])):
            for number in numbers:
                store.add(Block(kind, layer, number))
    for block in copies_of(SHAPE, SPLIT):
        store.add(block)
    if rank == 0:
        store.add_pinned()
    net = Sockets(rank, devices)
    widths = [[_roots_width(held) for held in whose] for whose in (heads, shards)]

    def exchanged(layer: int, half: int, own: Floats, x: Floats) -> Floats:
        held = (heads, shards)[half]
        net.to_all(own)
        results = [own if peer == rank else net.receive(peer, (len(x), widths[half][peer])) for peer in range(devices)]
        return store.sum_up(layer, half, held, results, x)

    def forward(ids: Sequence[int], position: int) -> int:
        if rank == 0:
            x = store.embed(ids, position)
            net.to_all(x)
        else:
            x = net.receive(0, (len(ids), SHAPE.width))
        for layer in range(SHAPE.layers):
            x = exchanged(layer, ATTENTION, store.heads(layer, heads[rank], x, position), x)
            x = exchanged(layer, FFN, store.ffn_shards(layer, shards[rank], x), x)
        return int(store.logits(x).argmax()) if rank == 0 else 0

    return forward, net


def _roots_width(leaves: Sequence[int]) -> int:
    from testbed.placement.tree import tree_roots

    return SHAPE.width * len(tree_roots(leaves))


def by_gloo(rank: int, devices: int, positions: int) -> Forward:
    """Megatron's split of every layer in torch, added up by gloo's all-reduce."""
    import torch
    import torch.distributed as dist
    from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://{address(0)}:{PORT}", rank=rank, world_size=devices)
    torch.manual_seed(SEED)
    D, own, inner = SHAPE.width, SHAPE.heads // devices, SHAPE.ffn_width // devices
    width = own * SHAPE.head_dim
    tokens, places = torch.randn(SHAPE.vocab, D) * 0.02, torch.randn(SHAPE.positions, D) * 0.02
    norm, zeros = torch.ones(D), torch.zeros(D)
    layers = [
        [torch.randn(dims) * 0.02 for dims in ((3 * width, D), (D, width), (inner, D), (D, inner))]
        for _ in range(SHAPE.layers)
    ]
    caches = torch.zeros(SHAPE.layers, 2, 1, own, positions, SHAPE.head_dim)

    def forward(ids: Sequence[int], position: int) -> int:
        count, end = len(ids), position + len(ids)
        said = torch.tensor(list(ids))
        dist.broadcast(said, 0)
        x = tokens[said] + places[position:end]  # (rows, D)
        mask = torch.ones(count, end, dtype=torch.bool).tril(position)
        for layer, (qkv, proj, up, down) in enumerate(layers):
            normed = layer_norm(x, (D,), norm, zeros)
            q, k, v = linear(normed, qkv).view(count, 3, own, SHAPE.head_dim).permute(1, 2, 0, 3).unsqueeze(1)
            caches[layer, 0, :, :, position:end], caches[layer, 1, :, :, position:end] = k, v
            keys, values = caches[layer, :, :, :, :end]
            out = scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            partial = linear(out[0].transpose(0, 1).reshape(count, width), proj)
            dist.all_reduce(partial)
            x = x + partial
            partial = linear(gelu(linear(layer_norm(x, (D,), norm, zeros), up), approximate="tanh"), down)
            dist.all_reduce(partial)
            x = x + partial
        return int(linear(layer_norm(x[-1:], (D,), norm, zeros), tokens).argmax()) if rank == 0 else 0

    return lambda ids, position: _without_gradients(forward, ids, position)


def _without_gradients(forward: Forward, ids: Sequence[int], position: int) -> int:
    import torch

    with torch.inference_mode():
        return forward(ids, position)


def main() -> None:
    """Be one process."""
    way, rank, devices, tokens = sys.argv[1], *map(int, sys.argv[2:5])
    positions = len(PROMPT) + tokens + 1
    if way == "sockets":
        forward, _ = by_sockets(rank, devices, positions)
    elif way == "gloo":
        forward = by_gloo(rank, devices, positions)
    else:
        forward = {"single": single, "transformers": by_transformers, "llama_cpp": by_llama_cpp}[way](positions)
    taken = timed(forward, tokens)
    if rank == 0:
        print(json.dumps(taken), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
