"""Times the same models under ONNX Runtime and writes what `wgfuse-benches --against` reads.

python3 benches/onnxruntime_reference.py OUT.json DIR... (needs the packages onnxruntime and numpy)
"""

import json
import pathlib
import sys
import time

import numpy as np
import onnxruntime as ort

BATCH, LENGTH = 1, 128


def feed(session):
    random = np.random.default_rng(0)
    values = {}
    for node in session.get_inputs():
        shape = [d if isinstance(d, int) else (BATCH if i == 0 else LENGTH) for i, d in enumerate(node.shape)]
        if "int" in node.type:
            value = np.ones(shape) if "mask" in node.name else random.integers(0, 100, shape)
            values[node.name] = value.astype(np.int64)
        else:
            values[node.name] = random.uniform(-1, 1, shape).astype(np.float32)
    return values


def measure(path):
    start = time.perf_counter()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = feed(session)
    session.run(None, values)
    first = time.perf_counter() - start
    until = time.perf_counter() + 0.3
    while time.perf_counter() < until:
        session.run(None, values)
    times = []
    until = time.perf_counter() + 2
    while len(times) < 10 or (len(times) < 200 and time.perf_counter() < until):
        start = time.perf_counter()
        session.run(None, values)
        times.append(time.perf_counter() - start)
    return {"first_ms": first * 1e3, "run_ms": sorted(times)[len(times) // 2] * 1e3}


def main():
    out, *places = sys.argv[1:]
    paths = []
    for place in map(pathlib.Path, places):
        own = place / "model.onnx"
        paths += [own] if own.is_file() else sorted(place.glob("*/model.onnx"))
    runs = {path.parent.name: measure(path) for path in paths}
    result = {"name": f"ONNX Runtime {ort.__version__}, CPU", "runs": runs}
    pathlib.Path(out).write_text(json.dumps(result, indent=1))


main()
