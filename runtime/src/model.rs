//! Model files to models, and the files that they refer to.

use std::{ops::Deref, sync::Arc};

use bytes::Bytes;
use wgfuse_compiler::{
    artefact::Artefact,
    error::Error as ModelError,
    graph::{Graph, Value, builder::GraphBuilder},
    import,
};

use crate::error::Result;

/// A model: what its file says, not yet tied to shapes or a device. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Model {
    inner: import::Model,
    /// What was compiled ahead of time, where that is all there is.
    pub(crate) artefact: Option<Arc<Artefact>>,
}

impl Model {
    /// The bytes of an ONNX file, or of what `wgfuse compile` has written. An ONNX model that keeps tensors in other files needs
    /// `open`. Without the feature `compiler` only the latter are known.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Model> {
        let bytes = bytes.into();
        #[cfg(feature = "compiler")]
        if !Artefact::is(&bytes) {
            return Ok(import::Model::from_bytes(bytes)?.into());
        }
        let artefact = Artefact::parse(bytes)?;
        let Artefact { inputs, outputs, states, .. } = artefact.clone();
        let inner = import::Model::compiled(inputs, outputs, states);
        Ok(Model { inner, artefact: Some(Arc::new(artefact)) })
    }

    /// A model of fixed shapes.
    pub fn from_graph(graph: Graph) -> Model {
        import::Model::from_graph(graph).into()
    }

    /// What was compiled ahead of time, of a model that was opened from that.
    pub fn compiled(&self) -> Option<&Artefact> {
        self.artefact.as_deref()
    }

    /// The model with its input `input` as a state: what it is in the next run is the output `output` of this one, of the
    /// same type. Runs are neither given the input nor give the output, so that a decoder's caches stay where it runs:
    ///
    /// ```no_run
    /// let model = wgfuse::Model::open("decoder.onnx")?.with_state("past_key", "present_key")?;
    /// # Ok::<(), wgfuse::Error>(())
    /// ```
    pub fn with_state(self, input: &str, output: &str) -> Result<Model> {
        match self.artefact {
            None => Ok(self.inner.with_state(input, output)?.into()),
            Some(_) => Err(crate::Error::input(input, "states are settled when an artefact is compiled")),
        }
    }

    /// A model written in Rust: `build` is given the inputs as values and returns the outputs, each with its name. It is
    /// called once for each new set of input shapes.
    pub fn build(
        inputs: Vec<import::Signature>,
        build: impl Fn(&mut GraphBuilder, &[Value]) -> std::result::Result<Vec<(String, Value)>, ModelError>
        + Send
        + Sync
        + 'static,
    ) -> Result<Model> {
        Ok(import::Model::from_builder(inputs, build)?.into())
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Model {
    /// Opens an ONNX file, or one that `wgfuse compile` has written. It is mapped, not read, and must not change while the model is in use; tensors that it keeps in
    /// other files are looked for in its own folder and those below it, nowhere else.
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Model> {
        let path = path.as_ref();
        let bytes = map(path).map_err(|source| crate::Error::Io { path: path.to_owned(), source })?;
        if cfg!(not(feature = "compiler")) || Artefact::is(&bytes) {
            return Model::from_bytes(bytes);
        }
        Model::onnx(path, bytes)
    }

    /// A file that `wgfuse compile` or `compile` has written; `open` takes such files too.
    pub(crate) fn artefact(path: impl AsRef<std::path::Path>) -> Result<Model> {
        let path = path.as_ref();
        let bytes = map(path).map_err(|source| crate::Error::Io { path: path.to_owned(), source })?;
        match Artefact::is(&bytes) {
            true => Model::from_bytes(bytes),
            false => Err(ModelError::malformed("byte 0", "this is no artefact of `wgfuse compile`").into()),
        }
    }

    #[cfg(not(feature = "compiler"))]
    fn onnx(_: &std::path::Path, bytes: Bytes) -> Result<Model> {
        Model::from_bytes(bytes)
    }

    #[cfg(feature = "compiler")]
    fn onnx(path: &std::path::Path, bytes: Bytes) -> Result<Model> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => ".".into(),
        };
        Ok(import::Model::from_onnx(bytes, &|name| beside(&folder, name))?.into())
    }
}

/// The bytes of the file `name` in `folder`; `None` where there is none or the name leads out of the folder.
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
fn beside(folder: &std::path::Path, name: &str) -> Option<Bytes> {
    use std::path::{Component, Path};
    let plain = |it: Component| matches!(it, Component::Normal(_) | Component::CurDir);
    if !Path::new(name).components().all(plain) {
        return None;
    }
    // Links are followed before the comparison: a link may not lead out either.
    let (folder, file) = (folder.canonicalize().ok()?, folder.join(name).canonicalize().ok()?);
    file.starts_with(&folder).then(|| map(&file).ok()).flatten()
}

#[cfg(not(target_arch = "wasm32"))]
fn map(path: &std::path::Path) -> std::io::Result<Bytes> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a file"));
    }
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: `Model::open` asks its caller that the file does not change meanwhile.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}

impl From<import::Model> for Model {
    fn from(inner: import::Model) -> Model {
        Model { inner, artefact: None }
    }
}

impl Deref for Model {
    type Target = import::Model;

    fn deref(&self) -> &import::Model {
        &self.inner
    }
}

#[cfg(all(test, feature = "compiler", not(target_arch = "wasm32")))]
mod tests {
    use super::*;

    #[test]
    fn only_files_in_the_folder_are_found() {
        let folder = std::env::temp_dir().join(format!("wgfuse-model-{}", std::process::id()));
        let inside = folder.join("model");
        std::fs::create_dir_all(inside.join("data")).expect("a folder");
        std::fs::write(folder.join("secret"), b"s").expect("written");
        std::fs::write(inside.join("data/weights"), b"w").expect("written");
        assert_eq!(beside(&inside, "data/weights").as_deref(), Some(&b"w"[..]));
        assert_eq!(beside(&inside, "./data/weights").as_deref(), Some(&b"w"[..]));
        let absolute = folder.join("secret");
        for name in ["../secret", "data/../../secret", "absent", "", absolute.to_str().expect("text")] {
            assert_eq!(beside(&inside, name), None, "{name}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&absolute, inside.join("link")).expect("linked");
            assert_eq!(beside(&inside, "link"), None);
        }
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
