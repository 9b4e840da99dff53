//! Sentences to embeddings, and how alike they are.
//!
//! ```text
//! cargo run --release --example embed -- --model DIR "one sentence" "another sentence"
//! ```
//!
//! `DIR` holds `model.onnx` and `tokenizer.json` of a sentence transformer that gives the last hidden state, for example
//! all-MiniLM-L6-v2. Its vectors are averaged over each sentence's tokens and brought to length 1.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer, TruncationParams};
use wgfuse::{Device, Model, Session, Tensor};

const USAGE: &str = "usage: embed --model DIR \"one sentence\" \"another sentence\" ...";
const LONGEST: usize = 512;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (folder, sentences) = arguments()?;
    let file = |name: &str| {
        let path = folder.join(name);
        ensure!(
            path.is_file(),
            "there is no file '{}': DIR must hold model.onnx and tokenizer.json",
            path.display()
        );
        Ok(path)
    };
    let (model, tokenizer) = (file("model.onnx")?, file("tokenizer.json")?);
    let tokenizer = tokenizer_from(&tokenizer)?;
    let model = Model::open(&model)?;
    let device = Device::best()?;
    let session = Session::new(&model, &device)?;
    let vectors = embed(&session, &tokenizer, &sentences)?;

    print!("device: {}", device.name());
    match device.disabled_reason() {
        Some(reason) => println!(" ({reason})\n"),
        None => println!("\n"),
    }
    for (at, sentence) in sentences.iter().enumerate() {
        println!("{:>3}  {sentence}", at + 1);
    }
    print!("\n   ");
    (1..=sentences.len()).for_each(|it| print!("{it:>8}"));
    println!();
    for (at, a) in vectors.iter().enumerate() {
        print!("{:>3}", at + 1);
        for b in &vectors {
            print!("{:>8.3}", a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>());
        }
        println!();
    }
    Ok(())
}

fn arguments() -> Result<(PathBuf, Vec<String>)> {
    let (mut folder, mut sentences) = (None, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--model" => folder = Some(args.next().context(USAGE)?),
            "-h" | "--help" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            it if it.starts_with("--") => bail!("unknown option {it}; {USAGE}"),
            _ => sentences.push(arg),
        }
    }
    ensure!(!sentences.is_empty(), "no sentences; {USAGE}");
    Ok((folder.context(USAGE)?.into(), sentences))
}

/// Pads to the longest sentence, whatever the file says, and cuts what is longer than the model takes.
fn tokenizer_from(path: &std::path::Path) -> Result<Tokenizer> {
    let fault = |it| anyhow!("'{}': {it}", path.display());
    let mut tokenizer = Tokenizer::from_file(path).map_err(fault)?;
    let padding = tokenizer.get_padding().cloned().unwrap_or_default();
    tokenizer.with_padding(Some(PaddingParams { strategy: PaddingStrategy::BatchLongest, ..padding }));
    let truncation = TruncationParams { max_length: LONGEST, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(fault)?;
    Ok(tokenizer)
}

/// One vector of length 1 a sentence.
fn embed(session: &Session, tokenizer: &Tokenizer, sentences: &[String]) -> Result<Vec<Vec<f32>>> {
    let tokens = tokenizer.encode_batch(sentences.to_vec(), true).map_err(|it| anyhow!("tokenizer: {it}"))?;
    let length = tokens.first().map_or(0, |it| it.len());
    let mut given = Vec::new();
    for input in &session.model().inputs {
        let rows = |of: fn(&tokenizers::Encoding) -> &[u32]| {
            tokens.iter().flat_map(of).map(|it| *it as i64).collect::<Vec<_>>()
        };
        let values = match input.name.as_str() {
            "input_ids" => rows(|it| it.get_ids()),
            "attention_mask" => rows(|it| it.get_attention_mask()),
            "token_type_ids" => rows(|it| it.get_type_ids()),
            other => bail!("the model takes '{other}', which a tokenizer does not give"),
        };
        let tensor = Tensor::i64([tokens.len(), length], &values).context("one number a token")?;
        given.push((input.name.as_str(), tensor));
    }
    let outputs = session.run(&given)?;
    let (name, hidden) = outputs.iter().next().context("the model has no output")?;
    let width = match hidden.shape()[..] {
        [batch, tokens_, width] if (batch, tokens_) == (tokens.len(), length) => width,
        _ => bail!("output '{name}' is {}, not one vector a token", hidden.ty()),
    };
    let hidden = hidden.to_f32().with_context(|| format!("output '{name}' is {}, not f32", hidden.ty()))?;
    let pooled = tokens.iter().zip(hidden.chunks_exact(length * width)).map(|(tokens, vectors)| {
        let mut sum = vec![0f32; width];
        for (vector, _) in
            vectors.chunks_exact(width).zip(tokens.get_attention_mask()).filter(|it| *it.1 != 0)
        {
            sum.iter_mut().zip(vector).for_each(|(sum, it)| *sum += it);
        }
        // The mean and the sum point the same way.
        let norm = sum.iter().map(|it| it * it).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        sum.into_iter().map(|it| it / norm).collect()
    });
    Ok(pooled.collect())
}
