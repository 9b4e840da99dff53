//! What a file that is no ONNX model is, told by how it begins, and what to do with it.

/// One sentence, for a file that did not parse. `None` where the beginning says nothing.
pub fn other(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        [] => "the file is empty: download or export it again",
        [b'P', b'K', 3, 4, ..] => {
            "this is a zip archive, such as PyTorch (.pt2, .pt), Keras and NumPy write: export the model to ONNX, from \
             PyTorch with torch.onnx.export"
        }
        [0x80, 2..=5, ..] => {
            "this is a Python pickle, such as older PyTorch writes (.pt, .pth): export the model with torch.onnx.export"
        }
        [0x89, b'H', b'D', b'F', ..] => {
            "this is an HDF5 file, such as Keras writes (.h5): export the model to ONNX, for example with tf2onnx"
        }
        [b'G', b'G', b'U', b'F', ..] => {
            "this is a GGUF file, which holds weights for llama.cpp: export the model that it was made from to ONNX"
        }
        [_, _, _, _, b'T', b'F', b'L', b'3', ..] => {
            "this is a TensorFlow Lite model: convert it to ONNX, for example with tf2onnx"
        }
        [_, _, _, _, b'O', b'R', b'T', b'M', ..] => {
            "this is a model in ONNX Runtime's own format (.ort): use the .onnx file that it was made from"
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => "this is a NumPy array, which is no model",
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            "this file is compressed: unpack it first"
        }
        [_, _, _, _, _, _, 0, 0, b'{', ..] => {
            "this is a safetensors file, which holds tensors but no model: export the model that they belong to to ONNX, \
             for example with optimum-cli"
        }
        text => return begins_as_text(text),
    })
}

fn begins_as_text(bytes: &[u8]) -> Option<&'static str> {
    const LOOK: usize = 64;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let text = text[..text.len().min(LOOK)].to_ascii_lowercase();
    let begins = |with: &str| text.starts_with(with.as_bytes());
    if begins("version https://git-lfs") {
        Some(
            "this is a Git LFS pointer that stands for the model: fetch the model itself with `git lfs pull`",
        )
    } else if begins("<!doctype html") || begins("<html") {
        Some(
            "this is a web page: the download gave the page about the file, not the file; take its direct link",
        )
    } else if begins("<") || begins("{") || begins("[") {
        Some("this is text (XML or JSON): export the model to ONNX's binary form")
    } else {
        None
    }
}
