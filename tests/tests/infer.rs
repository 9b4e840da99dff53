//! What ops refuse: files are untrusted, and nothing after type inference checks again.

use wgfuse_compiler::graph::text::parse;

const SO_FAR: &str = r#"
input "x" : f32[2,3,8]
%0 = input 0 : f32[2,3,8]
input "i" : i32[2,3]
%1 = input 1 : i32[2,3]
input "b" : bool[2]
%2 = input 2 : bool[2]
input "empty" : f32[2,0]
%3 = input 3 : f32[2,0]
input "s" : f32[]
%4 = input 4 : f32[]
input "w" : f32[4,3,3]
%5 = input 5 : f32[4,3,3]
"#;

/// A node behind `SO_FAR`, and a part of what is said about it.
const REFUSED: &[(&str, &str)] = &[
    ("add %0 %1 : f32[2,3,8]", "different dtypes"),
    ("add %2 %2 : bool[2]", "no meaning for bool"),
    ("exp %1 : i32[2,3]", "no meaning for i32"),
    ("not %0 : f32[2,3,8]", "no meaning for f32"),
    ("add %0 %5 : f32[2,3,8]", "do not broadcast"),
    ("select %0 %4 %4 : f32[2,3,8]", "not bool"),
    ("reduce_sum %2 axes=[0] : bool[]", "no meaning for bool"),
    ("reduce_sum %0 axes=[3] : f32[2,3]", "axis 3 of [2,3,8]"),
    ("reduce_sum %0 axes=[1,1] : f32[2]", "named twice"),
    ("mean %1 axes=[0] : i32[3]", "no meaning for i32"),
    ("argmax %3 axis=1 : i64[2]", "no elements to choose from"),
    ("reshape %0 shape=[7,7] : f32[7,7]", "different numbers of elements"),
    ("reshape %3 shape=[0,4294967296,4294967296] : f32[0]", "larger than memory"),
    ("permute %0 order=[0,1] : f32[2,3]", "not an order"),
    ("permute %0 order=[0,1,1] : f32[2,3,3]", "not an order"),
    ("expand %0 shape=[2,3] : f32[2,3]", "does not broadcast"),
    ("expand %4 shape=[4294967296,4294967296] : f32[1]", "larger than memory"),
    ("expand %4 shape=[9223372036854775807,2] : f32[1]", "larger than memory"),
    ("slice %0 starts=[0,0,4] sizes=[2,3,5] : f32[2,3,5]", "leave axis 2"),
    ("slice %0 starts=[0,0,4] sizes=[2,3,2] steps=[1,1,0] : f32[2,3,2]", "is 0"),
    ("slice %0 starts=[0,0,4] sizes=[2,3,2] steps=[1,1,-5] : f32[2,3,2]", "leave axis 2"),
    ("slice %0 starts=[0,0,4] sizes=[2,3,3] steps=[1,1,-9223372036854775808] : f32[2,3,3]", "leave axis 2"),
    ("slice %0 starts=[0] sizes=[2] : f32[2]", "1 starts for 3 axes"),
    ("pad %0 mode=constant before=[0,0,0] after=[0,0,1] : f32[2,3,9]", "without a fill"),
    ("pad %0 %4 mode=edge before=[0,0,0] after=[0,0,1] : f32[2,3,9]", "no use for one"),
    ("pad %0 mode=reflect before=[2,0,0] after=[0,0,0] : f32[4,3,8]", "at most 1"),
    ("pad %3 mode=edge before=[0,1] after=[0,0] : f32[2,1]", "at most 0"),
    ("pad %0 %4 mode=constant before=[0,0,18446744073709551615] after=[0,0,0] : f32[2]", "overflows"),
    ("concat axis=0 : f32[2]", "nothing to concatenate"),
    ("concat %0 %4 axis=0 : f32[2]", "differ in more than axis 0"),
    ("gather %0 %0 axis=0 : f32[2]", "not i32 or i64"),
    ("gather %3 %1 axis=1 : f32[2,2,3]", "without elements"),
    ("gather_elements %0 %1 axis=0 : f32[2,3]", "reach past"),
    ("gather_nd %4 %1 batch=0 : f32[2]", "3 coordinates"),
    ("gather_nd %5 %1 batch=1 : f32[2]", "do not share"),
    ("matmul %0 %0 : f32[2,3,3]", "do not multiply"),
    ("matmul %4 %0 : f32[2,8]", "do not multiply"),
    ("conv %0 %5 strides=[0] groups=1 : f32[2,4,6]", "is 0"),
    ("conv %0 %5 strides=[1,1] groups=1 : f32[2,4,6]", "2 strides for 1 axes"),
    ("conv %0 %5 strides=[1] groups=2 : f32[2,4,6]", "in 2 groups"),
    ("conv %0 %5 strides=[1] groups=0 : f32[2,4,6]", "in 0 groups"),
    ("conv %0 %5 strides=[1] dilations=[9] groups=1 : f32[2,4,6]", "finds no place"),
    ("conv %0 %5 strides=[1] before=[4294967296] groups=1 : f32[2,4,6]", "is larger than"),
    ("conv %0 %5 %4 strides=[1] groups=1 : f32[2,4,6]", "bias is f32[], not f32[4]"),
    ("conv %3 %3 strides=[] groups=1 : f32[2,4]", "has rank 2"),
    ("conv_transpose %0 %5 output=[9] strides=[1] groups=1 : f32[2,3,9]", "but weight"),
    ("pool %0 kind=max kernel=[0] output=[8] strides=[1] : f32[2,3,8]", "is empty"),
    ("pool %0 kind=max kernel=[2] output=[9] strides=[1] : f32[2,3,9]", "9 windows"),
    ("softmax %4 axis=0 : f32[]", "axis 0 of []"),
    ("layer_norm %0 %5 axis=2 eps=1e-5 : f32[2,3,8]", "does not broadcast to [8]"),
    ("group_norm %0 groups=2 eps=1e-5 : f32[2,3,8]", "3 channels in 2 groups"),
    ("batch_norm %0 %4 %4 %4 %4 eps=1e-5 : f32[2,3,8]", "scale is f32[], not f32[3]"),
    ("attention %0 %0 %0 scale=1.0 : f32[2,3,8]", "do not fit"),
    ("input 9 : f32[1]", "no input number 9"),
];

#[test]
fn refusals() {
    for (node, want) in REFUSED {
        let error = parse(&format!("{SO_FAR}%9 = {node}\n")).expect_err(node).to_string();
        assert!(error.contains(want), "{node}: {error}");
        assert!(error.contains("line 14"), "{node}: {error}");
    }
}
