"""Times the workloads of `wgfuse-benches gpu` under torch and writes what its --against reads.

python3 benches/torch_reference.py OUT.json [--only NAME]... [--no-models] [--no-kernels]

Needs the package torch and a CUDA device; no other package. What does not fit the device is skipped with a sentence.
Weights are random: times do not depend on them.

Kernels: torch.compile, and for products and matrix-vector products plain torch (cuBLAS). They are launched many times in
one CUDA graph, so that the time is the device's alone (gpu_ms). Models: torch.compile(mode="reduce-overhead");
run_ms is a call and a synchronise with inputs and outputs on the device, answer_ms takes inputs from host memory and puts
outputs there, gpu_ms is the device's share by events round many replays.
"""

import argparse
import gc
import json
import math
import pathlib
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "f16": torch.float16}
WARM_UP = 0.3


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda", dtype=dtype)


# Kernels: (name, function, operands, whether torch.compile makes it).


def kernels():
    rows, width = 65536, 4096
    at = f"{rows}x{width} f32"

    def big():
        return randn(rows, width)

    def vector():
        return randn(width)

    yield f"gelu {at}", lambda x: F.gelu(x, approximate="tanh"), lambda: [big()], True
    yield (
        f"gelu(x+b)*w+x {at}",
        lambda x, b, w: F.gelu(x + b, approximate="tanh") * w + x,
        lambda: [big(), vector(), vector()],
        True,
    )
    yield f"softmax {at}", lambda x: torch.softmax(x, -1), lambda: [big()], True
    yield (
        f"layer_norm {at}",
        lambda x, w, b: F.layer_norm(x, (width,), w, b, 1e-5),
        lambda: [big(), vector(), vector()],
        True,
    )
    yield f"rms_norm {at}", lambda x, w: F.rms_norm(x, (width,), w, 1e-5), lambda: [big(), vector()], True
    yield f"sum {at}", lambda x: x.sum(), lambda: [big()], True
    for dtype in ["f32", "f16"]:
        for side in [1024, 2048, 4096, 8192]:
            operands = lambda side=side, dtype=dtype: [randn(side, side, dtype=DTYPES[dtype]) for _ in range(2)]
            yield f"matmul {side} {dtype}", torch.matmul, operands, False
    for dtype in ["f16", "f32"]:
        for depth, cols in [(4096, 14336), (8192, 8192), (2048, 32000)]:
            for batch in [1, 4, 8]:
                operands = lambda batch=batch, depth=depth, cols=cols, dtype=dtype: [
                    randn(batch, depth, dtype=DTYPES[dtype]),
                    randn(cols, depth, dtype=DTYPES[dtype]),
                ]
                yield f"matvec {depth}x{cols} b{batch} {dtype}", F.linear, operands, False
        depth, cols = 4096, 14336
        for batch in [1, 4, 8]:
            operands = lambda batch=batch, depth=depth, cols=cols, dtype=dtype: [
                randn(batch, depth, dtype=DTYPES[dtype]),
                randn(depth, cols, dtype=DTYPES[dtype]),
            ]
            yield f"matvec {depth}x{cols} b{batch} along columns {dtype}", torch.matmul, operands, False
    for dtype in ["f32", "f16"]:
        for b, h, s, d, causal in [(1, 32, 512, 64, True), (1, 12, 128, 64, False), (8, 16, 1024, 64, False)]:
            what = " causal" if causal else ""
            operands = lambda b=b, h=h, s=s, d=d, dtype=dtype: [
                randn(b, h, s, d, dtype=DTYPES[dtype]) for _ in range(3)
            ]
            attend = lambda q, k, v, causal=causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            yield f"attention b{b} h{h} s{s} d{d}{what} {dtype}", attend, operands, True


def timed(replay):
    """The median milliseconds of a replay, by events, after a warm-up."""

    def once():
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    begun = time.perf_counter()
    while time.perf_counter() - begun < WARM_UP:
        once()
    return sorted(once() for _ in range(15))[7]


def captured(function, operands):
    """Milliseconds of one call, many standing in one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function(*operands)
        torch.cuda.synchronize()
        start = time.perf_counter()
        function(*operands)
        torch.cuda.synchronize()
        one = time.perf_counter() - start
    torch.cuda.current_stream().wait_stream(stream)
    times = max(1, min(200, int(5e-3 / one)))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            function(*operands)
    return timed(graph.replay) / times


def kernel(function, operands, compile):
    operands = operands()
    best = captured(function, operands)
    if compile:
        torch._dynamo.reset()
        compiled = captured(torch.compile(function), operands)
        return {"gpu_ms": compiled, "eager_gpu_ms": best}
    return {"gpu_ms": best}


# Models, of the same sizes as those of the Rust program.


class BertLayer(nn.Module):
    def __init__(self, dim, heads, ffn):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.up, self.down = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x, mask):
        b, s, d = x.shape
        split = lambda it: it.view(b, s, self.heads, d // self.heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(split(self.q(x)), split(self.k(x)), split(self.v(x)), attn_mask=mask)
        x = self.norm1(x + self.o(y.transpose(1, 2).reshape(b, s, d)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    def __init__(self, layers, dim, heads, ffn, vocab=30522, positions=512):
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(vocab, dim), nn.Embedding(positions, dim), nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(dim, heads, ffn) for _ in range(layers))

    def forward(self, ids, attention_mask):
        x = self.words(ids) + self.places.weight[: ids.shape[1]] + self.kinds.weight[0]
        x = self.norm(x)
        mask = (attention_mask == 0)[:, None, None, :].to(x.dtype) * -1e4
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Bottleneck(nn.Module):
    def __init__(self, inner, width, stride):
        super().__init__()
        out = width * 4
        self.conv1, self.bn1 = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.down = None
        if stride != 1 or inner != out:
            self.down = nn.Sequential(nn.Conv2d(inner, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.down is None else self.down(x)))


class ResNet50(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        blocks, inner = [], 64
        for stage, count in enumerate([3, 4, 6, 3]):
            for at in range(count):
                blocks.append(Bottleneck(inner, 64 << stage, 2 if stage and at == 0 else 1))
                inner = (64 << stage) * 4
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn(self.conv(x))), 3, 2, 1)
        return self.fc(self.blocks(x).mean((2, 3)))


class LlamaLayer(nn.Module):
    def __init__(self, dim, heads, kv_heads, ffn):
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, dim // heads
        kv = kv_heads * self.width
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.q, self.k, self.v, self.o = linear(dim, dim), linear(dim, kv), linear(dim, kv), linear(dim, dim)
        self.gate, self.up, self.down = linear(dim, ffn), linear(dim, ffn), linear(ffn, dim)
        self.norm1, self.norm2 = nn.RMSNorm(dim, eps=1e-5), nn.RMSNorm(dim, eps=1e-5)

    def forward(self, x, cos, sin, cache, position, mask):
        b, s, d = x.shape
        y = self.norm1(x)
        split = lambda it, heads: it.view(b, s, heads, self.width).transpose(1, 2)
        q, k, v = split(self.q(y), self.heads), split(self.k(y), self.kv_heads), split(self.v(y), self.kv_heads)

        def turned(x):
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat([-b, a], -1) * sin

        q, k = turned(q), turned(k)
        if cache is not None:
            k = cache[0].index_copy_(2, position, k)
            v = cache[1].index_copy_(2, position, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, s, d))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, layers=22, dim=2048, heads=32, kv_heads=4, ffn=5632, vocab=32000, length=512):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.layers = nn.ModuleList(LlamaLayer(dim, heads, kv_heads, ffn) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(dim, eps=1e-5), nn.Linear(dim, vocab, bias=False)
        width = dim // heads
        angles = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(0, width, 2) / width)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.cache_shape = (1, kv_heads, length, width)

    def caches(self):
        like = self.head.weight
        return [[torch.zeros(self.cache_shape, device=like.device, dtype=like.dtype) for _ in "kv"] for _ in self.layers]

    def forward(self, ids, position=None, caches=None):
        x = self.embed(ids)
        cos, sin, mask = self.cos, self.sin, None
        if position is not None:
            cos, sin = cos[position], sin[position]
            mask = (torch.arange(self.cache_shape[2], device=ids.device) <= position)[None, None, None, :]
        for at, layer in enumerate(self.layers):
            x = layer(x, cos, sin, caches and caches[at], position, mask)
        return self.head(self.norm(x[:, -1:]))


def models():
    ids = lambda b, s: lambda: [torch.randint(0, 100, (b, s)), torch.ones(b, s, dtype=torch.int64)]
    for dtype in ["f32", "f16"]:
        for batch in [1, 32]:
            yield f"minilm b{batch} s128 {dtype}", lambda: Bert(6, 384, 12, 1536), ids(batch, 128), dtype
            yield f"bert-base b{batch} s128 {dtype}", lambda: Bert(12, 768, 12, 3072), ids(batch, 128), dtype
            image = lambda batch=batch, dtype=dtype: [torch.randn(batch, 3, 224, 224).to(DTYPES[dtype])]
            yield f"resnet50 b{batch} {dtype}", ResNet50, image, dtype
        yield f"llama-1.1b prefill 512 {dtype}", Llama, lambda: [torch.randint(0, 100, (1, 512))], dtype
        token = lambda: [torch.randint(0, 100, (1, 1)), torch.tensor([511])]
        yield f"llama-1.1b decode 512 {dtype}", Llama, token, dtype


def model(make, inputs, dtype, name):
    torch._dynamo.reset()
    torch.cuda.reset_peak_memory_stats()
    with torch.device("cuda"):
        torch.set_default_dtype(DTYPES[dtype])
        it = make().eval()
        torch.set_default_dtype(torch.float32)
    it = it.to(DTYPES[dtype])
    more = [it.caches()] if "decode" in name else []
    for tensor in [tensor for layer in more for pair in layer for tensor in pair]:
        torch._dynamo.mark_static_address(tensor)
    host = [it.pin_memory() for it in inputs()]
    device = [it.cuda() for it in host]
    compiled = torch.compile(it, mode="reduce-overhead")

    def run():
        out = compiled(*device, *more)
        torch.cuda.synchronize()
        return out

    def answer():
        return compiled(*[it.cuda(non_blocking=True) for it in host], *more).cpu()

    def median(function):
        begun = time.perf_counter()
        while time.perf_counter() - begun < WARM_UP:
            function()
        times = []
        begun = time.perf_counter()
        while len(times) < 10 or (len(times) < 300 and time.perf_counter() - begun < 1.5):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2] * 1e3

    start = time.perf_counter()
    run()
    first = (time.perf_counter() - start) * 1e3
    result = {"first_ms": first, "run_ms": median(run), "answer_ms": median(answer)}

    def many():
        for _ in range(20):
            compiled(*device, *more)

    result["gpu_ms"] = timed(many) / 20
    result["memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--no-models", action="store_true")
    parser.add_argument("--no-kernels", action="store_true")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device; this program needs one")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    runs = {}
    result = {
        "name": f"torch.compile {torch.__version__}, {torch.cuda.get_device_name()}",
        "machine": f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}",
        "runs": runs,
    }

    def attempt(name, work):
        if args.only and not any(it in name for it in args.only):
            return
        try:
            with torch.inference_mode():
                runs[name] = work()
        except (torch.cuda.OutOfMemoryError, RuntimeError, NotImplementedError) as error:
            print(f"{name}: skipped, {str(error).strip().splitlines()[0]}", flush=True)
            return
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        shown = {key: float(f"{value:.4g}") for key, value in runs[name].items()}
        print(name, shown, flush=True)
        # What was measured is kept even if a later workload ends the program.
        args.out.write_text(json.dumps(result, indent=1))

    if not args.no_kernels:
        for name, function, operands, compile in kernels():
            attempt(name, lambda: kernel(function, operands, compile))
    if not args.no_models:
        for name, make, inputs, dtype in models():
            attempt(name, lambda: model(make, inputs, dtype, name))
    # The name under which `wgfuse-benches --models` knows it.
    if "minilm b1 s128 f32" in runs:
        runs["minilm"] = runs["minilm b1 s128 f32"]
        args.out.write_text(json.dumps(result, indent=1))
    if not runs:
        raise SystemExit("nothing was measured")
    assert all(math.isfinite(value) for run in runs.values() for value in run.values())


main()
