//! Operators of ONNX as single nodes: in the evaluator, on the processor and on the GPU, against numbers worked out by hand
//! or by a plain loop here. The standard's own suite has more; what it leaves out is here.

use prost::Message;
use wgfuse::{Device, Model, Session, Tensor};
use wgfuse_compiler::{graph::eval::eval, import::onnx::proto::*, shape::Shape};
use wgfuse_tests::{device, random::Random, zoo::beyond};

enum Attribute<'a> {
    Int(i64),
    Float(f32),
    Text(&'a str),
    Ints(&'a [i64]),
    Floats(&'a [f32]),
    Texts(&'a [&'a str]),
    Held(Tensor),
}

use Attribute::{Float, Floats, Held, Int, Ints, Text, Texts};

/// One node with the operands that are there, `None` for one left out, and `outputs` outputs.
struct Case<'a> {
    op: &'a str,
    domain: &'a str,
    opset: i64,
    attributes: &'a [(&'a str, Attribute<'a>)],
    inputs: Vec<Option<Tensor>>,
    outputs: usize,
}

impl<'a> Case<'a> {
    fn new(
        op: &'a str,
        opset: i64,
        attributes: &'a [(&'a str, Attribute<'a>)],
        inputs: Vec<Tensor>,
    ) -> Case<'a> {
        let inputs = inputs.into_iter().map(Some).collect();
        Case { op, domain: "", opset, attributes, inputs, outputs: 1 }
    }

    /// Known operands (sizes, axes) are constants of the file; the others its inputs.
    fn model(&self, known: &[usize]) -> Vec<u8> {
        let code = |it: &Tensor| match it.dtype().name() {
            "f32" => 1,
            "u8" => 2,
            "i32" => 6,
            "i64" => 7,
            other => panic!("no code for {other}"),
        };
        let held = |name: String, it: &Tensor| TensorProto {
            name,
            dims: it.shape().iter().map(|&it| it as i64).collect(),
            data_type: code(it),
            raw_data: it.data().clone(),
            ..Default::default()
        };
        let attribute = |(name, value): &(&str, Attribute)| {
            let mut it = AttributeProto { name: name.to_string(), ..Default::default() };
            match value {
                Int(value) => (it.r#type, it.i) = (attribute::INT, *value),
                Float(value) => (it.r#type, it.f) = (attribute::FLOAT, *value),
                Text(value) => (it.r#type, it.s) = (attribute::STRING, value.as_bytes().to_vec().into()),
                Ints(value) => (it.r#type, it.ints) = (attribute::INTS, value.to_vec()),
                Floats(value) => (it.r#type, it.floats) = (attribute::FLOATS, value.to_vec()),
                Held(value) => {
                    (it.r#type, it.t) = (attribute::TENSOR, Some(Box::new(held(String::new(), value))));
                }
                Texts(value) => {
                    it.r#type = attribute::STRINGS;
                    it.strings = value.iter().map(|it| it.as_bytes().to_vec().into()).collect();
                }
            }
            it
        };
        let names =
            |it: &Option<Tensor>, at: usize| if it.is_some() { format!("i{at}") } else { String::new() };
        let node = NodeProto {
            op_type: self.op.into(),
            domain: self.domain.into(),
            input: self.inputs.iter().enumerate().map(|(at, it)| names(it, at)).collect(),
            output: (0..self.outputs).map(|at| format!("o{at}")).collect(),
            attribute: self.attributes.iter().map(attribute).collect(),
            ..Default::default()
        };
        let given = || self.inputs.iter().enumerate().filter_map(|(at, it)| Some((at, it.as_ref()?)));
        let info = |name: String, it: Option<&Tensor>| {
            let dim = |&size: &usize| DimensionProto { dim_value: Some(size as i64), ..Default::default() };
            let shape = it.map(|it| TensorShapeProto { dim: it.shape().iter().map(dim).collect() });
            let tensor_type = Some(TensorTypeProto { elem_type: it.map_or(1, code), shape });
            ValueInfoProto { name, r#type: Some(TypeProto { tensor_type, ..Default::default() }) }
        };
        let imports = [("", if self.domain.is_empty() { self.opset } else { 20 }), (self.domain, self.opset)];
        let graph = GraphProto {
            node: vec![node],
            input: (given().filter(|it| !known.contains(&it.0)))
                .map(|(at, it)| info(format!("i{at}"), Some(it)))
                .collect(),
            initializer: (given().filter(|it| known.contains(&it.0)))
                .map(|(at, it)| held(format!("i{at}"), it))
                .collect(),
            output: (0..self.outputs).map(|at| info(format!("o{at}"), None)).collect(),
            ..Default::default()
        };
        ModelProto {
            ir_version: 10,
            opset_import: (imports.iter().take(1 + !self.domain.is_empty() as usize))
                .map(|(domain, version)| OperatorSetIdProto { domain: domain.to_string(), version: *version })
                .collect(),
            graph: Some(graph),
            functions: vec![],
        }
        .encode_to_vec()
    }

    /// The outputs by the evaluator, which the processor's and the GPU's are held against.
    fn run(&self, known: &[usize]) -> Result<Vec<Tensor>, String> {
        let bytes = self.model(known);
        let parsed =
            wgfuse_compiler::import::Model::from_bytes(bytes.clone().into()).map_err(|it| it.to_string())?;
        let inputs: Vec<Tensor> = (self.inputs.iter().enumerate())
            .filter(|(at, _)| !known.contains(at))
            .filter_map(|it| it.1.clone())
            .collect();
        let shapes: Vec<Shape> = inputs.iter().map(|it| it.shape().clone()).collect();
        let graph = parsed.graph(&shapes).map_err(|it| it.to_string())?;
        let want = eval(&graph, &inputs).map_err(|it| it.to_string())?;
        for device in [Device::cpu(), device::gpu()] {
            let model = Model::from_bytes(bytes.clone()).map_err(|it| it.to_string())?;
            let session =
                Session::with_options(&model, &device, device::options()).map_err(|it| it.to_string())?;
            let names = parsed.inputs.iter().map(|it| it.name.as_str());
            let given: Vec<_> = names.zip(inputs.iter().cloned()).collect();
            let made = session.run(&given).map_err(|it| it.to_string())?;
            for (at, want) in want.iter().enumerate() {
                assert_eq!(made[at].ty(), want.ty(), "{} output {at}", self.op);
                assert_eq!(beyond(&made[at], want, 1e-5, 1e-5), None, "{} output {at}", self.op);
            }
        }
        Ok(want)
    }
}

fn f(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::f32(shape, values).unwrap()
}

fn i(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::i64(shape, values).unwrap()
}

fn close(made: &Tensor, want: &[f64]) {
    let made = made.to_f64();
    let near = made.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0));
    assert!(made.len() == want.len() && near, "{made:?} is not {want:?}");
}

/// Before opset 7 the second operand stands along given axes of the first, and only if broadcasting is asked for.
#[test]
fn old_broadcasting() {
    let x = f(&[2, 3, 2], &[0.0; 12]);
    let along = [("broadcast", Int(1)), ("axis", Int(1))];
    let made = Case::new("Add", 6, &along, vec![x.clone(), f(&[3], &[1.0, 2.0, 3.0])]).run(&[]).unwrap();
    close(&made[0], &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0].repeat(2));
    let made = Case::new("Sub", 6, &[("broadcast", Int(1))], vec![x.clone(), f(&[2], &[1.0, 2.0])])
        .run(&[])
        .unwrap();
    close(&made[0], &[-1.0, -2.0].repeat(6));
    let refused = Case::new("Add", 6, &[], vec![x.clone(), f(&[2], &[1.0, 2.0])]).run(&[]).unwrap_err();
    assert!(refused.contains("'Add_0'") && refused.contains("broadcasting"), "{refused}");
    let made = Case::new("PRelu", 6, &[], vec![f(&[1, 2, 1], &[-1.0, -1.0]), f(&[2], &[2.0, 3.0])])
        .run(&[])
        .unwrap();
    close(&made[0], &[-2.0, -3.0]);
    let refused = Case::new("Dropout", 6, &[], vec![x]).run(&[]).unwrap_err();
    assert!(refused.contains("is_test"), "{refused}");
}

#[test]
fn losses() {
    // Logarithms of 2 rows of 3 classes; the second row's target is ignored.
    let x = f(&[2, 3], &[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]);
    let weights = f(&[3], &[1.0, 2.0, 4.0]);
    let with = |reduction, attributes: Option<i64>, target: &[i64]| {
        let mut all = vec![("reduction", Text(reduction))];
        all.extend(attributes.map(|it| ("ignore_index", Int(it))));
        let inputs = vec![x.clone(), i(&[2], target), weights.clone()];
        Case::new("NegativeLogLikelihoodLoss", 13, &all, inputs).run(&[]).unwrap()[0].clone()
    };
    close(&with("none", None, &[2, 0]), &[12.0, 4.0]);
    close(&with("sum", None, &[2, 0]), &[16.0]);
    close(&with("mean", None, &[2, 0]), &[16.0 / 5.0]);
    close(&with("mean", Some(-1), &[1, -1]), &[2.0]);
    close(&with("none", Some(77), &[77, 1]), &[0.0, 10.0]);
    let mut case =
        Case::new("SoftmaxCrossEntropyLoss", 13, &[], vec![f(&[1, 2], &[0.0, 0.0]), i(&[1], &[1])]);
    case.outputs = 2;
    let made = case.run(&[]).unwrap();
    close(&made[0], &[2f64.ln()]);
    close(&made[1], &[-(2f64.ln()); 2]);
    let refused =
        Case::new("NegativeLogLikelihoodLoss", 13, &[], vec![x, i(&[3], &[0; 3])]).run(&[]).unwrap_err();
    assert!(refused.contains("targets of shape"), "{refused}");
}

/// Every reduction, negative indices, places named twice and never, indices that cover a part only.
#[test]
fn scatters() {
    let join = |reduction: &str, old: f64, new: f64| match reduction {
        "none" => new,
        "add" => old + new,
        "mul" => old * new,
        "max" => old.max(new),
        _ => old.min(new),
    };
    let mut random = Random::new(7);
    let mut small = |count: usize| -> Vec<f32> { (0..count).map(|_| random.below(9) as f32 - 4.0).collect() };
    for reduction in ["none", "add", "mul", "max", "min"] {
        let attributes = [("reduction", Text(reduction)), ("axis", Int(1))];
        let (x, updates) = (small(12), small(6));
        let indices = [1, -1, 1, 0, 0, -4];
        let mut want: Vec<f64> = x.iter().map(|&it| it as f64).collect();
        for (at, &index) in indices.iter().enumerate() {
            let place = at / 3 * 4 + (index + 4) as usize % 4;
            want[place] = join(reduction, want[place], updates[at] as f64);
        }
        let inputs = vec![f(&[3, 4], &x), i(&[2, 3], &indices), f(&[2, 3], &updates)];
        close(&Case::new("ScatterElements", 18, &attributes, inputs).run(&[]).unwrap()[0], &want);

        let (x, updates) = (small(12), small(8));
        let tuples = [0, 1, 2, 1, -3, -1, 0, 0];
        let mut want: Vec<f64> = x.iter().map(|&it| it as f64).collect();
        for (at, pair) in tuples.chunks(2).enumerate() {
            let place = (pair[0] + 3) as usize % 3 * 2 + (pair[1] + 2) as usize % 2;
            for run in 0..2 {
                let element = &mut want[place * 2 + run];
                *element = join(reduction, *element, updates[at * 2 + run] as f64);
            }
        }
        let inputs = vec![f(&[3, 2, 2], &x), i(&[2, 2, 2], &tuples), f(&[2, 2, 2], &updates)];
        close(&Case::new("ScatterND", 18, &attributes[..1], inputs).run(&[]).unwrap()[0], &want);
    }
    let huge = vec![
        f(&[1 << 20], &vec![0.0; 1 << 20]),
        i(&[1 << 15], &[0; 1 << 15]),
        f(&[1 << 15], &[0.0; 1 << 15]),
    ];
    let refused = Case::new("ScatterElements", 18, &[], huge).run(&[]).unwrap_err();
    assert!(refused.contains("'ScatterElements_0'") && refused.contains("to compare"), "{refused}");
}

#[test]
fn caches() {
    let past = f(&[2, 4, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let new = f(&[2, 2, 1], &[-1.0, -2.0, -3.0, -4.0]);
    let run = |mode, at: &[i64]| {
        let attributes = [("mode", Text(mode))];
        let inputs = vec![past.clone(), new.clone(), i(&[2], at)];
        Case::new("TensorScatter", 24, &attributes, inputs).run(&[]).unwrap()[0].clone()
    };
    close(&run("linear", &[0, 2]), &[-1.0, -2.0, 3.0, 4.0, 5.0, 6.0, -3.0, -4.0]);
    close(&run("circular", &[3, 5]), &[-2.0, 2.0, 3.0, -1.0, 5.0, -3.0, -4.0, 8.0]);
}

#[test]
fn sequences_backwards() {
    let x: Vec<f32> = (0..12).map(|it| it as f32).collect();
    let inputs = vec![f(&[4, 3], &x), i(&[3], &[4, 1, 2])];
    let made = Case::new("ReverseSequence", 10, &[], inputs).run(&[]).unwrap();
    close(&made[0], &[9.0, 1.0, 5.0, 6.0, 4.0, 2.0, 3.0, 7.0, 8.0, 0.0, 10.0, 11.0]);
}

#[test]
fn middles() {
    let inputs = vec![f(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), i(&[2], &[1, 5])];
    let made = Case::new("CenterCropPad", 18, &[], inputs).run(&[1]).unwrap();
    close(&made[0], &[0.0, 3.0, 4.0, 0.0, 0.0]);
    let inputs = vec![f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), i(&[1], &[1])];
    let made = Case::new("CenterCropPad", 18, &[("axes", Ints(&[-1]))], inputs).run(&[1]).unwrap();
    close(&made[0], &[2.0, 5.0]);
}

/// What each kind of activation and each option of the recurrent operators does, by a plain loop of one hidden element.
#[test]
fn recurrent() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (x, w, r) = ([0.5, -0.4, 0.9], 0.7, -0.3);
    let inputs = |gates: usize, lengths: bool| {
        let weights = |by: f32| (0..gates).map(|it| by * (it + 1) as f32).collect::<Vec<f32>>();
        let mut all = vec![
            Some(f(&[3, 1, 1], &[0.5, -0.4, 0.9])),
            Some(f(&[1, gates, 1], &weights(0.7))),
            Some(f(&[1, gates, 1], &weights(-0.3))),
            Some(f(&[1, 2 * gates], &vec![0.1; 2 * gates])),
        ];
        if lengths {
            all.push(Some(Tensor::from_slice(wgfuse::DType::I32, [1], &[2i32]).unwrap()));
        }
        all
    };
    let case = |op: &'static str, attributes: &'static [(&str, Attribute)], gates, lengths| Case {
        op,
        domain: "",
        opset: 14,
        attributes,
        inputs: inputs(gates, lengths),
        outputs: if op == "LSTM" { 3 } else { 2 },
    };

    // RNN, clipped, with an activation that has parameters; backwards over the first two steps.
    let attributes = &[
        ("activations", Texts(&["ScaledTanh"])),
        ("activation_alpha", Floats(&[2.0])),
        ("activation_beta", Floats(&[0.5])),
        ("clip", Float(0.4)),
        ("direction", Text("reverse")),
    ];
    let made = case("RNN", attributes, 1, true).run(&[]).unwrap();
    let step = |x: f64, h: f64| 2.0 * (0.5 * (w * x + r * h + 0.2).clamp(-0.4, 0.4)).tanh();
    let late = step(x[1], 0.0);
    let early = step(x[0], late);
    close(&made[0], &[early, late, 0.0]);
    close(&made[1], &[early]);

    let made = case("LSTM", &[("input_forget", Int(1))], 4, false).run(&[]).unwrap();
    let (mut h, mut c, mut all) = (0.0, 0.0, vec![]);
    for x in x {
        let gate = |at: f64, h: f64| at * (w * x + r * h) + 0.2;
        let (into, out, new) = (sigmoid(gate(1.0, h)), sigmoid(gate(2.0, h)), gate(4.0, h).tanh());
        c = (1.0 - into) * c + into * new;
        h = out * f64::tanh(c);
        all.push(h);
    }
    close(&made[0], &all);
    close(&made[2], &[c]);

    for late in [false, true] {
        let attributes: &[(&str, Attribute)] = if late { &[("linear_before_reset", Int(1))] } else { &[] };
        let made = case("GRU", attributes, 3, false).run(&[]).unwrap();
        let (mut h, mut all) = (0.0, vec![]);
        for x in x {
            let (z, reset) = (sigmoid(w * x + r * h + 0.2), sigmoid(2.0 * (w * x + r * h) + 0.2));
            let kept = if late { reset * (3.0 * r * h + 0.1) } else { 3.0 * r * (reset * h) + 0.1 };
            h = (1.0 - z) * (3.0 * w * x + 0.1 + kept).tanh() + z * h;
            all.push(h);
        }
        close(&made[0], &all);
    }
    let refused = case("RNN", &[("activations", Texts(&["Sine"]))], 1, false).run(&[]).unwrap_err();
    assert!(refused.contains("'RNN_0'") && refused.contains("'Sine'"), "{refused}");
}

/// Ten thousand steps are not unfolded.
#[test]
fn too_many_steps() {
    let inputs = vec![f(&[10_000, 1, 1], &[0.0; 10_000]), f(&[1, 1, 1], &[0.0]), f(&[1, 1, 1], &[0.0])];
    let refused = Case::new("RNN", 14, &[], inputs).run(&[]).unwrap_err();
    assert!(refused.contains("10000 steps"), "{refused}");
}

/// Between the elements, beyond the border, in each way to say what lies there.
#[test]
fn grids() {
    let x = f(&[1, 1, 1, 4], &[1.0, 2.0, 4.0, 8.0]);
    // Along the inner axis: place -1.5, 0.5, 4.
    let grid = f(&[1, 1, 3, 2], &[-1.5, 0.0, -0.5, 0.0, 1.25, 0.0]);
    let run = |mode, padding_mode| {
        let attributes = [("mode", Text(mode)), ("padding_mode", Text(padding_mode))];
        let inputs = vec![x.clone(), grid.clone()];
        Case::new("GridSample", 20, &attributes, inputs).run(&[]).unwrap()[0].clone()
    };
    close(&run("linear", "zeros"), &[0.0, 1.5, 0.0]);
    close(&run("linear", "border"), &[1.0, 1.5, 8.0]);
    close(&run("linear", "reflection"), &[1.5, 1.5, 8.0]);
    close(&run("nearest", "border"), &[1.0, 1.0, 8.0]);
    // Weights at the middle between two elements: -0.09375, 0.59375, 0.59375, -0.09375.
    let middle = -0.09375 + 0.59375 * 3.0 - 0.09375 * 4.0;
    close(&run("cubic", "border"), &[1.0, middle, 8.0]);
}

/// The transition of the state in every rule, by a plain loop.
#[test]
fn linear_attention() {
    let (q, k, v) = ([0.3, -0.7], [0.5, 0.2], [1.0, -2.0]);
    let (decay, rate) = ([-0.1, -0.5], [0.9, 0.4]);
    let of = |it: &[f64; 2]| f(&[1, 2, 1], &it.map(|it| it as f32));
    for rule in ["linear", "gated", "delta", "gated_delta"] {
        let attributes = [
            ("update_rule", Text(rule)),
            ("q_num_heads", Int(1)),
            ("kv_num_heads", Int(1)),
            ("scale", Float(2.0)),
        ];
        let mut case = Case::new("LinearAttention", 27, &attributes, vec![of(&q), of(&k), of(&v)]);
        case.inputs.extend([Some(f(&[1, 1, 1, 1], &[0.25])), Some(of(&decay)), Some(of(&rate))]);
        case.outputs = 2;
        let made = case.run(&[]).unwrap();
        let (mut state, mut all) = (0.25, vec![]);
        for at in 0..2 {
            if rule.contains("gated") {
                state *= decay[at].exp();
            }
            let new = if rule.contains("delta") { rate[at] * (v[at] - state * k[at]) } else { v[at] };
            state += k[at] * new;
            all.push(2.0 * q[at] * state);
        }
        close(&made[0], &all);
        close(&made[1], &[state]);
    }
}

#[test]
fn training() {
    let all = [1.0, 2.0, 0.5, 0.25].map(|it| f(&[1], &[it]));
    let inputs = [vec![f(&[], &[0.1]), i(&[], &[3])], all.to_vec()].concat();
    let domain = "ai.onnx.preview.training";
    let mut case =
        Case { domain, outputs: 3, ..Case::new("Adam", 1, &[("norm_coefficient", Float(0.5))], inputs) };
    let made = case.run(&[]).unwrap();
    let gradient = 0.5 * 1.0 + 2.0;
    let (v, h) = (0.9 * 0.5 + 0.1 * gradient, 0.999 * 0.25 + 0.001 * gradient * gradient);
    let rate = 0.1 * (1.0 - 0.999f64.powi(3)).sqrt() / (1.0 - 0.9f64.powi(3));
    close(&made[0], &[1.0 - rate * v / (f64::sqrt(h) + 1e-6)]);
    close(&made[1], &[v]);
    close(&made[2], &[h]);
    case.inputs.pop();
    assert!(case.run(&[]).unwrap_err().contains("multiple of 4"));
    let inputs =
        vec![f(&[2, 1], &[1.0, 3.0]), f(&[1], &[2.0]), f(&[1], &[1.0]), f(&[1], &[0.0]), f(&[1], &[1.0])];
    let mut case =
        Case::new("BatchNormalization", 15, &[("training_mode", Int(1)), ("epsilon", Float(0.0))], inputs);
    case.outputs = 3;
    let made = case.run(&[]).unwrap();
    close(&made[0], &[-1.0, 3.0]);
    close(&made[1], &[0.2]);
    close(&made[2], &[1.0]);
}

#[test]
fn products_so_far() {
    let x = f(&[4], &[1.0, 2.0, 3.0, 4.0]);
    let run = |attributes: &[(&str, Attribute)]| {
        Case::new("CumProd", 26, attributes, vec![x.clone(), i(&[], &[0])]).run(&[1]).unwrap()[0].clone()
    };
    close(&run(&[]), &[1.0, 2.0, 6.0, 24.0]);
    close(&run(&[("exclusive", Int(1))]), &[1.0, 1.0, 2.0, 6.0]);
    close(&run(&[("reverse", Int(1)), ("exclusive", Int(1))]), &[24.0, 12.0, 4.0, 1.0]);
}

/// Both ways between floats and whole numbers, at values that arithmetic would not keep.
#[test]
fn same_bits() {
    let x = [1.0, -0.0, f32::MAX, f32::NEG_INFINITY, 1e-30];
    let cast =
        |to, x: Tensor| Case::new("BitCast", 26, &[("to", Int(to))], vec![x]).run(&[]).unwrap()[0].clone();
    let bits = cast(6, f(&[5], &x));
    assert_eq!(bits.to_i64(), x.map(|it| it.to_bits() as i32 as i64));
    let back: Vec<u32> = cast(1, bits).to_f32().unwrap().iter().map(|it| it.to_bits()).collect();
    assert_eq!(back, x.map(f32::to_bits));
    let refused = Case::new("BitCast", 26, &[("to", Int(7))], vec![f(&[1], &[0.0])]).run(&[]).unwrap_err();
    assert!(refused.contains("differ in width"), "{refused}");
}

/// Lengths of one matrix, of several factors, of a large prime factor; whole, one-sided, back again; along each axis.
#[test]
fn transforms() {
    let mut random = Random::new(3);
    for length in [1usize, 6, 67, 96, 130, 210] {
        let x: Vec<f32> = (0..2 * length).map(|_| random.unit() as f32 - 0.5).collect();
        let want: Vec<f64> = (0..length)
            .flat_map(|k| {
                let term = |n: usize| {
                    let (sin, cos) =
                        (std::f64::consts::TAU * (n * k % length) as f64 / length as f64).sin_cos();
                    let (re, im) = (x[2 * n] as f64, x[2 * n + 1] as f64);
                    (re * cos + im * sin, im * cos - re * sin)
                };
                let sum = (0..length).map(term).fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
                [sum.0, sum.1]
            })
            .collect();
        let signal = f(&[1, length, 2], &x);
        let made = Case::new("DFT", 19, &[], vec![signal.clone()]).run(&[]).unwrap()[0].clone();
        assert!(made.to_f64().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "{length}");
        let back = Case::new("DFT", 19, &[("inverse", Int(1))], vec![made]).run(&[]).unwrap();
        assert_eq!(beyond(&back[0], &signal, 1e-5, 1e-5), None, "{length}");
    }
    // Real signals down columns, and from half a spectrum back.
    let x = f(&[4, 3, 1], &(0..12).map(|it| (it * it % 7) as f32).collect::<Vec<_>>());
    let known = |it: i64| i(&[], &[it]);
    let inputs = vec![x.clone(), known(4), known(0)];
    let half = Case::new("DFT", 20, &[("onesided", Int(1))], inputs).run(&[1, 2]).unwrap()[0].clone();
    assert_eq!(half.shape()[..], [3, 3, 2]);
    let attributes = [("onesided", Int(1)), ("inverse", Int(1))];
    let back = Case::new("DFT", 20, &attributes, vec![half, known(4), known(0)]).run(&[1, 2]).unwrap();
    assert_eq!(beyond(&back[0], &x, 1e-5, 1e-5), None);
    let prime = f(&[1, 4099, 1], &[0.0; 4099]);
    assert!(Case::new("DFT", 19, &[], vec![prime]).run(&[]).unwrap_err().contains("prime factor of 4099"));
    // Frames of 4 in steps of 2, weighted.
    let inputs = vec![f(&[1, 6, 1], &[1.0; 6]), known(2), f(&[4], &[1.0, 2.0, 3.0, 4.0]), known(4)];
    let made = Case::new("STFT", 17, &[], inputs).run(&[1, 3]).unwrap();
    close(&made[0], &[10.0, 0.0, -2.0, 2.0, -2.0, 0.0].repeat(2));
    let made = Case::new("HannWindow", 17, &[("periodic", Int(0))], vec![known(5)]).run(&[0]).unwrap();
    close(&made[0], &[0.0, 0.5, 1.0, 0.5, 0.0]);
}

/// Windows that overlap, lie apart and reach into the padding, by a plain loop.
#[test]
fn images_of_windows() {
    let attributes = [("strides", Ints(&[2])), ("dilations", Ints(&[3])), ("pads", Ints(&[1, 2]))];
    // 2 elements in a reach of 4 over 6 elements padded to 9: windows start at -1, 1 and 3.
    let x: Vec<f32> = (1..=6).map(|it| it as f32).collect();
    let mut want = [0.0; 6];
    for tap in 0..2usize {
        for window in 0..3 {
            if let Some(element) = want.get_mut((2 * window + 3 * tap).wrapping_sub(1)) {
                *element += x[tap * 3 + window] as f64;
            }
        }
    }
    let inputs = vec![f(&[1, 2, 3], &x), i(&[1], &[6]), i(&[1], &[2])];
    close(&Case::new("Col2Im", 18, &attributes, inputs).run(&[1, 2]).unwrap()[0], &want);
}

#[test]
fn regions() {
    let x = f(&[1, 1, 4, 4], &(0..16).map(|it| it as f32).collect::<Vec<_>>());
    // x1, y1, x2, y2; one bin. Samples follow from the sizes: 2 by 1 in the first region, 1 by 3 in the second.
    let rois = f(&[2, 4], &[0.5, 0.5, 2.5, 1.5, 0.5, 0.5, 1.5, 3.5]);
    let inputs = vec![x.clone(), rois, i(&[2], &[0, 0])];
    let made = Case::new("RoiAlign", 16, &[], inputs).run(&[1]).unwrap();
    // Between the elements x + 4 y is exact: the middles of the regions.
    close(&made[0], &[1.0 + 4.0 * 0.5, 0.5 + 4.0 * 1.5]);
    let rois = f(&[2, 5], &[0.0, 0.0, 0.0, 3.0, 1.0, 0.0, 2.0, 2.0, 9.0, 9.0]);
    let made =
        Case::new("MaxRoiPool", 16, &[("pooled_shape", Ints(&[1, 2]))], vec![x, rois]).run(&[]).unwrap();
    close(&made[0], &[5.0, 7.0, 15.0, 0.0]);
}

/// A kernel whose second element is moved by a half, and whose first is masked to a quarter.
#[test]
fn deformed() {
    let x = f(&[1, 1, 1, 4], &[1.0, 2.0, 4.0, 8.0]);
    let (w, bias) = (f(&[1, 1, 1, 2], &[1.0, 10.0]), f(&[1], &[100.0]));
    // [n, (tap, axis), 1, 3]
    let offset = f(&[1, 4, 1, 3], &[[0.0; 3], [0.0; 3], [0.0; 3], [0.5; 3]].concat());
    let mask = f(&[1, 2, 1, 3], &[[0.25; 3], [1.0; 3]].concat());
    let made = Case::new("DeformConv", 19, &[], vec![x, w, offset, bias, mask]).run(&[]).unwrap();
    close(&made[0], &[100.25 + 30.0, 100.5 + 60.0, 101.0 + 40.0]);
}

/// Places of maxima beside padding, of equal elements, of unsigned zeros that padding could be taken for, by columns.
#[test]
fn places_of_maxima() {
    let run = |by_columns: i64, x: Tensor| {
        let all = [
            ("kernel_shape", Ints(&[2, 2])),
            ("strides", Ints(&[2, 2])),
            ("pads", Ints(&[1, 0, 0, 0])),
            ("storage_order", Int(by_columns)),
        ];
        let mut case = Case::new("MaxPool", 12, &all, vec![x]);
        case.outputs = 2;
        case.run(&[]).unwrap()
    };
    let x = f(&[1, 2, 3, 2], &[1.0, 2.0, 5.0, 5.0, 6.0, 4.0, -1.0, -2.0, -7.0, -7.0, -9.0, -7.5]);
    let made = run(0, x.clone());
    close(&made[0], &[2.0, 6.0, -1.0, -7.0]);
    assert_eq!(made[1].to_i64(), [1, 4, 6, 8]);
    assert_eq!(run(1, x)[1].to_i64(), [3, 2, 6, 7]);
    let zeros = Tensor::from_slice(wgfuse::DType::U8, [1, 1, 3, 2], &[0u8; 6]).unwrap();
    assert_eq!(run(0, zeros)[1].to_i64(), [0, 2]);
    let inputs = vec![f(&[1, 1, 2], &[5.0, 6.0]), i(&[1, 1, 2], &[1, 2]), i(&[3], &[1, 1, 5])];
    let attributes = [("kernel_shape", Ints(&[2])), ("strides", Ints(&[2]))];
    close(&Case::new("MaxUnpool", 11, &attributes, inputs).run(&[2]).unwrap()[0], &[0.0, 5.0, 6.0, 0.0, 0.0]);
}

#[test]
fn determinants() {
    let singular = [1.0, 2.0, 3.0, 2.0, 4.0, 6.0, 7.0, 8.0, 9.0];
    let pivoted = [0.0, 2.0, 0.0, 3.0, 1.0, 0.0, 5.0, 5.0, 4.0];
    let made =
        Case::new("Det", 11, &[], vec![f(&[2, 3, 3], &[singular, pivoted].concat())]).run(&[]).unwrap();
    close(&made[0], &[0.0, -24.0]);
}

/// Two trees; one asks for a member of a set, one follows what is no number.
#[test]
fn trees() {
    fn case<'a>(attributes: &'a [(&'a str, Attribute<'a>)]) -> Case<'a> {
        let x = f(&[3, 2], &[0.0, 6.0, 3.0, 9.0, f32::NAN, 2.0]);
        Case { domain: "ai.onnx.ml", ..Case::new("TreeEnsemble", 5, attributes, vec![x]) }
    }
    let mut attributes = [
        ("tree_roots", Ints(&[0, 2])),
        ("nodes_modes", Held(Tensor::from_slice(wgfuse::DType::U8, [3], &[0u8, 3, 6]).unwrap())),
        ("nodes_splits", Held(f(&[3], &[1.0, 5.0, 0.0]))),
        ("nodes_featureids", Ints(&[0, 1, 1])),
        ("nodes_missing_value_tracks_true", Ints(&[1, 0, 0])),
        ("membership_values", Held(f(&[3], &[2.0, 9.0, f32::NAN]))),
        ("nodes_truenodeids", Ints(&[1, 0, 3])),
        ("nodes_trueleafs", Ints(&[0, 1, 1])),
        ("nodes_falsenodeids", Ints(&[2, 1, 4])),
        ("nodes_falseleafs", Ints(&[1, 1, 1])),
        ("leaf_targetids", Ints(&[0, 0, 1, 1, 0])),
        ("leaf_weights", Held(f(&[5], &[1.0, 2.0, 4.0, 8.0, 16.0]))),
        ("n_targets", Int(2)),
    ];
    close(&case(&attributes).run(&[]).unwrap()[0], &[17.0, 0.0, 0.0, 12.0, 2.0, 8.0]);
    attributes[6].1 = Ints(&[0, 0, 3]);
    attributes[7].1 = Ints(&[0, 0, 1]);
    assert!(case(&attributes).run(&[]).unwrap_err().contains("circles"));
}

#[test]
fn grams() {
    let attributes = [
        ("mode", Text("TFIDF")),
        ("min_gram_length", Int(1)),
        ("max_gram_length", Int(2)),
        ("max_skip_count", Int(1)),
        ("pool_int64s", Ints(&[2, 3, 2, 3, 3, 2])),
        ("ngram_counts", Ints(&[0, 2])),
        ("ngram_indexes", Ints(&[0, 1, 4, 2])),
        ("weights", Floats(&[1.0, 1.0, 10.0, 1.0])),
    ];
    let inputs = vec![i(&[5], &[2, 3, 2, 2, 3])];
    let made = Case::new("TfIdfVectorizer", 9, &attributes, inputs).run(&[]).unwrap();
    close(&made[0], &[3.0, 2.0, 2.0, 0.0, 30.0]);
}
