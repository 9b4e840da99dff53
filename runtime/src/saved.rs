//! Folders that hold what one compilation was given (`Session::save_arguments`, `WGFUSE_SAVE_ARGS`).
//!
//! In: arguments, or a folder from anywhere. Out: a new folder that appears whole, under a name that says what was compiled and that nothing
//! had before; or the arguments again. A folder is not trusted: only three files of fixed names are opened, none of them through a
//! link, and none is read that is larger than the caller allows.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use wgfuse_compiler::{
    arguments::{Arguments, LIMIT, Written},
    compile_graph,
    graph::Graph,
    plan::Plan,
    target::Target,
};

use crate::{
    caught::caught,
    error::{Error, Result},
};

const ARGUMENTS: &str = "arguments.txt";
const GRAPH: &str = "graph.txt";
const DATA: &str = "data.bin";

/// Of a text. MiniLM's graph has 60 KB.
const LONGEST_TEXT: u64 = 256 << 20;

/// Where arguments are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Saving {
    pub folder: PathBuf,
    /// Tensors of more bytes are kept as statistics.
    pub limit: u64,
}

impl Saving {
    /// `WGFUSE_SAVE_ARGS` names the folder, `WGFUSE_SAVE_ARGS_LIMIT` the limit.
    pub fn from_environment() -> Result<Option<Saving>> {
        let Some(folder) = std::env::var_os("WGFUSE_SAVE_ARGS").filter(|it| !it.is_empty()) else {
            return Ok(None);
        };
        let limit = match std::env::var("WGFUSE_SAVE_ARGS_LIMIT") {
            Err(_) => LIMIT,
            Ok(text) => text.trim().parse().map_err(|_| Error::Setting {
                name: "WGFUSE_SAVE_ARGS_LIMIT".into(),
                what: format!("'{text}' is no number of bytes"),
            })?,
        };
        Ok(Some(Saving { folder: folder.into(), limit }))
    }

    pub fn save(&self, arguments: &Arguments) -> io::Result<PathBuf> {
        let written = arguments.write(self.limit);
        new_folder(&self.folder, &name(&arguments.graph, &arguments.device), |it| write(it, &written))
    }
}

pub(crate) fn write(folder: &Path, written: &Written) -> io::Result<()> {
    fs::write(folder.join(ARGUMENTS), &written.arguments)?;
    fs::write(folder.join(GRAPH), &written.graph)?;
    fs::write(folder.join(DATA), &written.data)
}

/// Writes what a compilation is given to a new folder in `folder`, as `Session::save_arguments` does.
pub fn keep_arguments(folder: impl AsRef<Path>, arguments: &Arguments, limit: u64) -> Result<PathBuf> {
    let saving = Saving { folder: folder.as_ref().to_owned(), limit };
    saving.save(arguments).map_err(|source| io_error(folder.as_ref(), source))
}

/// What one compilation was given, as `Session::save_arguments` or a debug folder keeps it. The files may have `most` bytes, and so
/// may the tensors that are made from statistics.
pub fn load_arguments(folder: impl AsRef<Path>, most: u64) -> Result<Arguments> {
    let folder = folder.as_ref();
    let inner = folder.join("arguments");
    let folder = if folder.join(ARGUMENTS).exists() { folder } else { &inner };
    let text = |name: &str| {
        let path = folder.join(name);
        let bytes = read(&path, LONGEST_TEXT)?;
        String::from_utf8(bytes).map_err(|_| io_error(&path, invalid("not a text")))
    };
    let (arguments, graph) = (text(ARGUMENTS)?, text(GRAPH)?);
    let data = Bytes::from(read(&folder.join(DATA), most)?);
    Ok(Arguments::read(&arguments, &graph, &data, most)?)
}

/// The plan of what one compilation was given, for a target; its own is `arguments.target`.
pub fn compile_arguments(arguments: &Arguments, target: &Target) -> Result<Plan> {
    let Arguments { graph, options, choices, .. } = arguments;
    caught(|| Ok(compile_graph(graph.clone(), target, options, choices)?))
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let failed = |source| io_error(path, source);
    let about = fs::symlink_metadata(path).map_err(failed)?;
    if !about.is_file() {
        return Err(failed(invalid("not a file")));
    }
    if about.len() > most {
        return Err(failed(invalid(&format!("it has {} bytes, {most} are allowed", about.len()))));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    // It may grow meanwhile.
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

/// Outputs, shapes and device: `logits-1x128-nvidia-h200`.
pub(crate) fn name(graph: &Graph, device: &str) -> String {
    let dims = |it: &[usize]| it.iter().map(|it| it.to_string()).collect::<Vec<_>>().join("x");
    let shapes = graph.inputs().iter().map(|it| dims(&it.ty.shape)).filter(|it| !it.is_empty()).take(3);
    let parts: Vec<String> = (graph.outputs.first().map(|it| it.name.clone()).into_iter())
        .chain(shapes)
        .chain([device.to_owned()])
        .collect();
    let plain =
        |it: char| if it.is_ascii_alphanumeric() || it == '_' { it.to_ascii_lowercase() } else { '-' };
    let name: String = parts.join("-").chars().map(plain).take(80).collect();
    let name = name.split('-').filter(|it| !it.is_empty()).collect::<Vec<_>>().join("-");
    if name.is_empty() { "graph".to_owned() } else { name }
}

/// A folder in `parent` that `fill` has filled when it appears, called `name` or, where there is one, `name-2` and so on.
pub(crate) fn new_folder(
    parent: &Path,
    name: &str,
    fill: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<PathBuf> {
    fs::create_dir_all(parent)?;
    let made = tempfile::Builder::new().prefix(".wgfuse-").tempdir_in(parent)?;
    fill(made.path())?;
    let mut number = 1;
    loop {
        let path = match number {
            1 => parent.join(name),
            _ => parent.join(format!("{name}-{number}")),
        };
        number += 1;
        // Renaming takes the place of no folder that has anything in it; this keeps an empty one too.
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match fs::rename(made.path(), &path) {
            Ok(()) => {
                // Nothing lies under its old name any more.
                let _ = made.keep();
                return Ok(path);
            }
            Err(_) if fs::symlink_metadata(&path).is_ok() => {}
            Err(error) => return Err(error),
        }
    }
}
