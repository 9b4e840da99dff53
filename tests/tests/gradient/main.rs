//! Derivatives of graphs: against central differences in f64, on the processor and the GPU, by ONNX's operator, and where there are none.

mod cases;
mod models;
mod onnx;
mod rules;
