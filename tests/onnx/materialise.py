"""Writes ONNX's backend test suite, as the package `onnx` has it, to a folder in the standard layout:

    DIR/<kind>/<case>/model.onnx
    DIR/<kind>/<case>/test_data_set_<n>/{input,output}_<m>.pb
    DIR/<kind>/<case>/tolerance.txt       "rtol atol", where they are not 1e-3 and 1e-7

Usage: python3 materialise.py DIR. The same version of the package gives the same bytes: much of its data is random, so that
the generators are seeded here, and sets of names go by their hash.
"""

import os
import random
import shutil
import sys
import warnings

if os.environ.get("PYTHONHASHSEED") != "0":
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, *sys.argv])

import numpy as np

random.seed(0)
np.random.seed(0)
unseeded = np.random.default_rng
np.random.default_rng = lambda seed=None: unseeded(0 if seed is None else seed)
warnings.filterwarnings("ignore")

import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

KINDS = ["node", "simple", "pytorch-converted", "pytorch-operator"]


def proto(value, info):
    """A value as the message that its declared type asks for."""
    if isinstance(value, onnx.TensorProto):
        return value
    kind = info.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.from_list(value, info.name)
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name)
    if kind == "map_type":
        return numpy_helper.from_dict(value, info.name)
    return numpy_helper.from_array(np.asarray(value), info.name)


def write(path, message):
    with open(path, "wb") as file:
        file.write(message.SerializeToString(deterministic=True))


def case(folder, it):
    os.makedirs(folder)
    if it.model is None:
        shutil.copytree(it.model_dir, folder, dirs_exist_ok=True)
    else:
        write(f"{folder}/model.onnx", it.model)
        for number, (inputs, outputs) in enumerate(it.data_sets):
            data = f"{folder}/test_data_set_{number}"
            os.makedirs(data)
            for name, values, infos in [
                ("input", inputs, it.model.graph.input),
                ("output", outputs, it.model.graph.output),
            ]:
                for at, (value, info) in enumerate(zip(values, infos, strict=True)):
                    write(f"{data}/{name}_{at}.pb", proto(value, info))
    tolerance = (it.rtol, it.atol)
    if tolerance != (1e-3, 1e-7):
        with open(f"{folder}/tolerance.txt", "w") as file:
            file.write(f"{tolerance[0]} {tolerance[1]}\n")


def main():
    [folder] = sys.argv[1:]
    # Whole or not there at all.
    making = f"{folder}.making"
    shutil.rmtree(making, ignore_errors=True)
    cases = [it for kind in KINDS for it in load_model_tests(kind=kind)]
    for it in cases:
        case(f"{making}/{it.kind}/{it.name}", it)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(making, folder)
    print(f"{len(cases)} cases of onnx {onnx.__version__} in {folder}")


main()
