"""Writes evaluator.txt: ops in the graph's text form, each with the result that ONNX's reference implementation gives.

Cases are separated by lines of dashes. Run in this folder, with the Python package `onnx`.
"""

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

OPSET = 23
random = np.random.default_rng(7)
NAMES = {"float32": "f32", "int64": "i64", "int32": "i32", "bool": "bool", "uint8": "u8", "float64": "f64"}
cases = []


def f(*shape, scale=1.0):
    return (random.standard_normal(shape) * scale).round(3).astype(np.float32)


def i(*values):
    return np.array(values, dtype=np.int64)


def ty(x):
    return f"{NAMES[str(x.dtype)]}[{','.join(map(str, x.shape))}]"


def constant(x):
    if x.dtype == bool:
        x_ = x.astype(int)
    else:
        x_ = x
    if x.dtype.kind == "f":
        values = (np.format_float_positional(v, trim="0") if np.isfinite(v) else str(v) for v in x_.flat)
    else:
        values = map(str, x_.flat)
    return f"constant {{{','.join(values)}}} : {ty(x)}"


def reference(node, inputs, attributes):
    names = [f"x{at}" if x is not None else "" for at, x in enumerate(inputs)]
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32,
             "bool": TensorProto.BOOL, "uint8": TensorProto.UINT8, "float64": TensorProto.DOUBLE}
    infos = [helper.make_tensor_value_info(n, kinds[str(x.dtype)], x.shape) for n, x in zip(names, inputs) if n]
    out = helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)
    graph = helper.make_graph([helper.make_node(node, names, ["y"], **attributes)], node, infos, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    return np.asarray(ReferenceEvaluator(model).run(None, {n: x for n, x in zip(names, inputs) if n})[0])


def case(name, line, node, inputs, attributes={}, operands=None, want=None):
    """`line` with {} for operands; `operands` (default: inputs) are the constants that it takes."""
    want = reference(node, inputs, attributes) if want is None else want
    text = [f"// {name}"]
    operands = [x for x in inputs if x is not None] if operands is None else operands
    for at, x in enumerate(operands):
        text.append(f"%{at} = {constant(x)}")
    made = len(operands)
    text.append(f"%{made} = {line.format(*[f'%{at}' for at in range(made)], shape=list(want.shape))} : {ty(want)}".replace(", ", ","))
    text.append(f"%{made + 1} = {constant(want)}")
    text.append(f'output "have" = %{made}')
    text.append(f'output "want" = %{made + 1}')
    cases.append("\n".join(text) + "\n")


def spatial(strides, dilations, before, after):
    line = f"strides={strides} dilations={dilations} before={before} after={after}"
    return line, dict(strides=strides, dilations=dilations, pads=before + after)


def conv(name, x, w, bias, groups, *window):
    line, attributes = spatial(*window)
    inputs = [x, w] + ([bias] if bias is not None else [])
    case(name, f"conv {'{} ' * len(inputs)}{line} groups={groups}", "Conv", inputs, attributes | {"group": groups})


conv("conv1d", f(2, 3, 9), f(4, 3, 3), f(4), 1, [2], [1], [1], [0])
conv("conv2d", f(1, 2, 6, 5), f(3, 2, 3, 2), f(3), 1, [2, 1], [1, 2], [1, 0], [2, 1])
conv("conv2d grouped", f(2, 4, 4, 4), f(6, 2, 2, 2), None, 2, [1, 1], [1, 1], [0, 0], [1, 1])
conv("conv2d depthwise", f(1, 3, 5, 5), f(3, 1, 3, 3), f(3), 3, [1, 1], [1, 1], [1, 1], [1, 1])
conv("conv3d", f(1, 2, 3, 4, 3), f(2, 2, 2, 2, 2), f(2), 1, [1, 2, 1], [1, 1, 1], [0, 1, 0], [1, 0, 0])


def conv_transpose(name, x, w, bias, groups, strides, dilations, before, after, more):
    line, attributes = spatial(strides, dilations, before, after)
    output = [s * (n - 1) + o + (k - 1) * d + 1 - b - a for s, n, o, k, d, b, a in
              zip(strides, x.shape[2:], more, w.shape[2:], dilations, before, after)]
    inputs = [x, w] + ([bias] if bias is not None else [])
    # The reference implementation knows one group only.
    parts = zip(np.split(x, groups, 1), np.split(w, groups, 0))
    want = [reference("ConvTranspose", [*part, *inputs[2:]], attributes | {"output_padding": more}) for part in parts]
    case(name, f"conv_transpose {'{} ' * len(inputs)}output={output} {line} groups={groups}", "ConvTranspose", inputs,
         want=np.concatenate(want, 1))


conv_transpose("conv_transpose1d", f(1, 2, 4), f(2, 3, 3), f(3), 1, [2], [1], [1], [0], [0])
conv_transpose("conv_transpose2d", f(1, 2, 3, 4), f(2, 3, 3, 2), f(3), 1, [2, 1], [1, 2], [1, 1], [0, 1], [1, 0])
conv_transpose("conv_transpose2d grouped", f(2, 4, 3, 3), f(4, 1, 2, 2), None, 2, [2, 2], [1, 1], [0, 0], [0, 0], [0, 0])


def pool(name, kind, x, kernel, strides, dilations, before, after, ceil=0):
    line, attributes = spatial(strides, dilations, before, after)
    node = "MaxPool" if kind == "max" else "AveragePool"
    attributes |= {"kernel_shape": kernel, "ceil_mode": ceil}
    if "count" in kind:
        attributes["count_include_pad"] = 1
    size = lambda n, k, s, d, b, a: (n + b + a - d * (k - 1) - 1 + (s - 1) * ceil) // s + 1
    output = []
    for n, k, s, d, b, a in zip(x.shape[2:], kernel, strides, dilations, before, after):
        o = size(n, k, s, d, b, a)
        output.append(o - 1 if ceil and (o - 1) * s >= n + b else o)
    case(name, f"pool {{}} kind={kind} kernel={kernel} output={output} {line}", node, [x], attributes)


pool("max_pool1d", "max", f(1, 2, 9), [3], [2], [1], [1], [0])
pool("max_pool2d", "max", f(1, 2, 6, 7), [3, 2], [2, 2], [1, 1], [1, 1], [1, 0])
pool("max_pool2d dilated", "max", f(1, 1, 7, 7), [2, 3], [1, 2], [2, 2], [0, 0], [0, 0])
pool("max_pool2d ceil", "max", f(1, 1, 4, 4), [3, 3], [2, 2], [1, 1], [0, 0], [0, 0], ceil=1)
pool("max_pool3d", "max", f(1, 1, 4, 4, 4), [2, 2, 2], [2, 2, 2], [1, 1, 1], [0, 0, 0], [0, 0, 0])
pool("avg_pool2d", "average", f(1, 2, 5, 5), [3, 3], [2, 2], [1, 1], [1, 1], [1, 1])
pool("avg_pool2d counted", "average count_padding=true", f(1, 2, 5, 5), [3, 3], [2, 2], [1, 1], [1, 1], [1, 1])
pool("avg_pool1d", "average", f(1, 2, 8), [2], [1], [1], [0], [0])

case("softmax", "softmax {} axis=1", "Softmax", [f(2, 5, 3, scale=4)], dict(axis=1))
case("log_softmax", "softmax {} axis=2 log=true", "LogSoftmax", [f(2, 3, 4, scale=4)], dict(axis=2))
x = f(2, 3, 4)
case("layer_norm", "layer_norm {} {} {} axis=1 eps=1e-3", "LayerNormalization", [x, f(3, 4), f(3, 4)],
     dict(axis=1, epsilon=1e-3))
case("layer_norm last", "layer_norm {} {} axis=2 eps=1e-5", "LayerNormalization", [x, f(4)], dict(axis=-1))
case("rms_norm", "rms_norm {} {} axis=2 eps=1e-5", "RMSNormalization", [x, f(4)], dict(axis=-1, epsilon=1e-5))
case("group_norm", "group_norm {} {} {} groups=2 eps=1e-5", "GroupNormalization", [f(2, 4, 3, 2), f(4), f(4)],
     dict(num_groups=2, epsilon=1e-5))
case("batch_norm", "batch_norm {} {} {} {} {} eps=1e-3", "BatchNormalization",
     [f(2, 3, 2, 2), f(3), f(3), f(3), np.abs(f(3)) + np.float32(0.5)], dict(epsilon=1e-3))

q, k, v = f(1, 4, 3, 8), f(1, 2, 5, 8), f(1, 2, 5, 6)
case("attention grouped", "attention {} {} {} scale=0.5", "Attention", [q, k, v], dict(scale=0.5))
case("attention masked", "attention {} {} {} {} scale=0.5", "Attention", [q, k, v, f(3, 5)], dict(scale=0.5))
q = f(2, 2, 4, 8)
case("attention causal", "attention {} {} {} scale=0.25 causal=true", "Attention", [q, f(2, 2, 4, 8), f(2, 2, 4, 8)],
     dict(scale=0.25, is_causal=1))

x = f(3, 4, 2)
index = i(0, -1, 2)
case("gather", "gather {} {} axis=1", "Gather", [x, index], dict(axis=1))
case("gather rows", "gather {} {} axis=0", "Gather", [x, i(2, 0, 0, -3).reshape(2, 2)], dict(axis=0))
case("gather_elements", "gather_elements {} {} axis=1", "GatherElements",
     [f(3, 3), i(1, -1, 0, 2, 0, 1).reshape(3, 2)], dict(axis=1))
case("gather_nd", "gather_nd {} {} batch=0", "GatherND", [x, i(0, 1, 2, -1).reshape(2, 2)])
case("gather_nd whole", "gather_nd {} {} batch=0", "GatherND", [x, i(0, 1, 1, 2, 3, 0).reshape(2, 1, 3)])
case("gather_nd batched", "gather_nd {} {} batch=1", "GatherND", [x, i(1, 0, 3).reshape(3, 1)], dict(batch_dims=1))

axis = np.array(1, dtype=np.int64)
for exclusive in (0, 1):
    for reverse in (0, 1):
        flags = (" exclusive=true" if exclusive else "") + (" reverse=true" if reverse else "")
        case("cumsum" + flags, "cumsum {} axis=1" + flags, "CumSum", [x, axis],
             dict(exclusive=exclusive, reverse=reverse), [x])
ties = np.array([[3, 1, 3, 1], [2, 2, 2, 2], [0, 5, 1, 5]], dtype=np.float32)
for last in (0, 1):
    flag = " last=true" if last else ""
    case("argmax" + flag, "argmax {} axis=1" + flag, "ArgMax", [ties], dict(axis=1, keepdims=0, select_last_index=last))
    case("argmin" + flag, "argmin {} axis=0 keep=true" + flag, "ArgMin", [ties],
         dict(axis=0, keepdims=1, select_last_index=last))

pads = i(1, 0, 2, 2, 1, 0)
x = f(3, 2, 4)
fill = np.array(1.5, dtype=np.float32)
case("pad", "pad {} {} mode=constant before=[1,0,2] after=[2,1,0]", "Pad", [x, pads, fill], {}, [x, fill])
for mode in ("edge", "wrap"):
    case("pad " + mode, "pad {} mode=" + mode + " before=[1,0,2] after=[2,1,0]", "Pad", [x, pads], dict(mode=mode), [x])
case("pad reflect", "pad {} mode=reflect before=[1,0,2] after=[2,1,0]", "Pad", [x, pads], dict(mode="reflect"), [x])

for node, name in (("ReduceSum", "reduce_sum"), ("ReduceMax", "reduce_max"), ("ReduceMin", "reduce_min"),
                   ("ReduceProd", "reduce_prod"), ("ReduceMean", "mean")):
    case(name, name + " {} axes=[0,2]", node, [x, i(0, 2)], dict(keepdims=0), [x])
    case(name + " keep", name + " {} axes=[1] keep=true", node, [x, i(1)], dict(keepdims=1), [x])
case("slice", "slice {} starts=[2,0,3] sizes=[2,2,2] steps=[-1,1,-2]", "Slice",
     [x, i(2, 3), i(0, -9), i(0, 2), i(-1, -2)], {}, [x])
case("permute", "permute {} order=[2,0,1]", "Transpose", [x], dict(perm=[2, 0, 1]))
narrow = f(3, 1)
case("expand", "expand {} shape=[2,3,2]", "Expand", [narrow, i(2, 1, 2)], {}, [narrow])
case("concat", "concat {} {} {} axis=1", "Concat", [f(2, 1, 2), f(2, 3, 2), f(2, 2, 2)], dict(axis=1))

for a, b in (((3, 4), (4, 2)), ((4,), (4, 2)), ((3, 4), (4,)), ((4,), (4,)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (2, 4, 3))):
    case(f"matmul {a} {b}", "matmul {} {}", "MatMul", [f(*a), f(*b)])
a = random.integers(-9, 9, (2, 3)).astype(np.int32)
case("matmul i32", "matmul {} {}", "MatMul", [a, random.integers(-9, 9, (3, 2)).astype(np.int32)])

x = f(2, 6, scale=3)
for node, name in (("Erf", "erf"), ("Gelu", "gelu"), ("Sigmoid", "sigmoid"), ("Softplus", "softplus"), ("Tanh", "tanh"),
                   ("HardSwish", "hardswish"), ("Round", "round"), ("Sign", "sign"), ("Asinh", "asinh"), ("Relu", "relu"),
                   ("Floor", "floor"), ("Exp", "exp"), ("Atan", "atan"), ("Reciprocal", "recip")):
    case(name, name + " {}", node, [x])
case("gelu_tanh", "gelu_tanh {}", "Gelu", [x], dict(approximate="tanh"))
near = np.clip(x / 4, -0.95, 0.95).astype(np.float32)
for node, name in (("Asin", "asin"), ("Acos", "acos"), ("Atanh", "atanh")):
    case(name, name + " {}", node, [near])
for node, name in (("Add", "add"), ("Sub", "sub"), ("Mul", "mul"), ("Div", "div"), ("Max", "max"), ("Min", "min"),
                   ("Less", "lt"), ("GreaterOrEqual", "ge"), ("Equal", "eq")):
    case(name, name + " {} {}", node, [x, f(2, 1)])
ints, divisors = i(-7, 7, -7, 7, 6), i(3, -3, -3, 3, 4)
case("mod", "mod {} {}", "Mod", [ints, divisors])
case("rem", "rem {} {}", "Mod", [ints, divisors], dict(fmod=1))
case("rem f32", "rem {} {}", "Mod", [x, np.full((1,), 0.7, np.float32)], dict(fmod=1))
case("pow", "pow {} {}", "Pow", [np.abs(x), f(6)])
case("select", "select {} {} {}", "Where", [np.array([[True], [False]]), x, f(6)])

with open("evaluator.txt", "w") as file:
    file.write("-----\n".join(cases))
print(len(cases), "cases")
