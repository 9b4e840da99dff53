"""Times the same architectures under torch.compile(mode="reduce-overhead") and writes what `wgfuse-benches --against` reads.

python3 benches/torch_reference.py OUT.json (needs the packages torch and transformers, and a CUDA device)

Weights are random: the time of a run does not depend on them.
"""

import json
import pathlib
import sys
import time

import torch
from transformers import BertConfig, BertModel

BATCH, LENGTH = 1, 128


def measure(config):
    torch.set_float32_matmul_precision("highest")
    model = BertModel(config, add_pooling_layer=False).cuda().eval()
    ids = torch.randint(0, 100, (BATCH, LENGTH), device="cuda")
    mask = torch.ones_like(ids)
    compiled = torch.compile(model, mode="reduce-overhead")
    with torch.inference_mode():

        def run():
            compiled(input_ids=ids, attention_mask=mask)
            torch.cuda.synchronize()

        start = time.perf_counter()
        run()
        first = time.perf_counter() - start
        for _ in range(100):
            run()
        times = []
        for _ in range(200):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return {"first_ms": first * 1e3, "run_ms": sorted(times)[len(times) // 2] * 1e3}


def main():
    minilm = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    result = {
        "name": f"torch.compile {torch.__version__}, {torch.cuda.get_device_name()}",
        "runs": {"minilm": measure(minilm)},
    }
    pathlib.Path(sys.argv[1]).write_text(json.dumps(result, indent=1))


main()
