//! Build ops: builds whose definition is a file of another tree.
//!
//! Owns [`BuildOperation`], which finds the definition; solving it is left to
//! [`SubSolve`](crate::operation::SubSolve), so that this floor knows no scheduler.
//!
//! The key is that of BuildKit: the op and how its inputs were made. What the nested definition
//! takes from outside by names that may change their meaning, such as a local directory or a tag,
//! is not in there; the result is then good for one solve.

use std::io::Read as _;
use std::sync::{Arc, OnceLock};

use ashlar_llb::digest::OpDigest;
use ashlar_llb::{DecodeError, Definition, Limits, LoadError, pb};
use async_trait::async_trait;

use super::engine::unblock;
use super::keys::{self, OpKey};
use super::{Engine, NoSuchInput};
use crate::cancel::Cancel;
use crate::error::{Blame, Failure, FailureSource, Fault, OperationError};
use crate::operation::{CacheMap, Context, Operation};
use crate::refs::Ref;
use crate::tree::view::ResolveError;
use crate::tree::{Kind, TreePath};

/// The attribute that names the file with the definition.
const FILE_NAME: &str = "llbbuild.filename";

/// A build op cannot be run.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NestedError {
    /// The op wants one of its inputs to be run as the builder.
    #[error("input {input} is to be the builder; only LLB itself can be")]
    Builder {
        /// The number it gives.
        input: i64,
    },
    /// The op has no input with the definition.
    #[error("the build op has no input `{}`", pb::LLB_DEFINITION_INPUT)]
    NoDefinition,
    /// The file with the definition cannot be found.
    #[error("the definition of a nested build cannot be found")]
    File(#[source] ResolveError),
    /// The name of the file is no path.
    #[error("{name:?} is not a path")]
    Path {
        /// The name.
        name: String,
    },
    /// What should hold the definition is not a regular file.
    #[error("{path} cannot hold the definition of a nested build: it is not a regular file")]
    NotAFile {
        /// The path.
        path: TreePath,
    },
    /// The file is larger than any definition may be.
    #[error("{path} has {size} bytes, a definition may have {limit}")]
    TooLarge {
        /// The file.
        path: TreePath,
        /// Its size in bytes.
        size: u64,
        /// The ceiling in bytes.
        limit: usize,
    },
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: TreePath,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The file holds no definition.
    #[error("{path} is not a definition")]
    Decode {
        /// The file.
        path: TreePath,
        /// What is wrong with it.
        #[source]
        source: Arc<DecodeError>,
    },
    /// The definition breaks the rules.
    #[error("the definition of a nested build cannot be loaded")]
    Load(#[source] Arc<LoadError>),
    /// There are too many builds inside of builds.
    #[error("builds are nested more than {limit} deep")]
    TooDeep {
        /// How many may be.
        limit: usize,
    },
    /// A vertex of the nested build failed.
    #[error("{}{name}", location.as_ref().map(|at| format!("{at}: ")).unwrap_or_default())]
    Vertex {
        /// The display name of that vertex.
        name: String,
        /// Its digest.
        digest: OpDigest,
        /// Where it stands in a source file (`file:line`), if the nested definition says so.
        location: Option<String>,
        /// Why it failed.
        #[source]
        source: FailureSource,
    },
    /// The nested build failed.
    #[error("the nested build `{build}` failed")]
    Within {
        /// The display name of the vertex that asked for it.
        build: Arc<str>,
        /// What failed in it.
        #[source]
        source: FailureSource,
    },
}

impl NestedError {
    /// What failed in the nested build, if something did.
    pub fn inner(&self) -> Option<&Failure> {
        match self {
            Self::Vertex { source, .. } | Self::Within { source, .. } => Some(&source.0),
            _ => None,
        }
    }
}

impl Blame for NestedError {
    fn fault(&self) -> Fault {
        match self {
            Self::Read { .. } => Fault::Environment,
            error => error.inner().map_or(Fault::Input, Failure::fault),
        }
    }

    fn remedy(&self) -> Option<String> {
        self.inner().and_then(Failure::remedy)
    }
}

/// Solves a definition that is a file of one of its inputs.
#[derive(Debug)]
pub struct BuildOperation {
    key: OpKey,
    input: usize,
    file: String,
    name: Arc<str>,
    engine: Arc<Engine>,
    /// What the nested build started from, once it ran.
    origins: OnceLock<Vec<Ref>>,
}

impl BuildOperation {
    /// Checks the op of a vertex that has `inputs` inputs and is shown as `name`.
    ///
    /// # Errors
    /// [`NestedError::Builder`], [`NestedError::NoDefinition`], [`NoSuchInput`].
    pub fn new(
        op: &pb::BuildOp,
        inputs: usize,
        name: &str,
        engine: &Arc<Engine>,
    ) -> Result<Self, OperationError> {
        if op.builder != pb::LLB_BUILDER {
            return Err(NestedError::Builder { input: op.builder }.into());
        }
        let input = op.inputs.get(pb::LLB_DEFINITION_INPUT);
        let input = input.ok_or(NestedError::NoDefinition)?.input;
        let position = usize::try_from(input).ok().filter(|&at| at < inputs);
        let named = op.attrs.get(FILE_NAME).map(String::as_str);
        Ok(Self {
            key: keys::build(op, inputs),
            input: position.ok_or(NoSuchInput {
                input,
                count: inputs,
            })?,
            file: named.unwrap_or(pb::LLB_DEFINITION_INPUT).to_owned(),
            name: name.into(),
            engine: engine.clone(),
            origins: OnceLock::new(),
        })
    }
}

#[async_trait]
impl Operation<Ref> for BuildOperation {
    async fn cache_map(&self, _: &Context) -> Result<CacheMap, OperationError> {
        Ok(self.key.cache_map())
    }

    async fn run(&self, inputs: Vec<Ref>, context: &Context) -> Result<Vec<Ref>, OperationError> {
        let tree = inputs.get(self.input).cloned().unwrap_or_else(Ref::scratch);
        let file = self.file.clone();
        let read = unblock(&context.cancel, move |cancel| read(&tree, &file, &cancel));
        let definition = read.await?;
        let solved = self.engine.sub_solve.sub_solve(definition, context).await;
        let solved = solved.map_err(|error| match error {
            OperationError::Cancelled => OperationError::Cancelled,
            OperationError::Failed(failure) => NestedError::Within {
                build: self.name.clone(),
                source: FailureSource(failure),
            }
            .into(),
        })?;
        if !solved.fixed {
            context.confine();
        }
        // As good as those of another run.
        let _first = self.origins.set(solved.origins);
        Ok(vec![solved.value])
    }

    fn origins(&self) -> Vec<Ref> {
        self.origins.get().cloned().unwrap_or_default()
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn takes_permit(&self) -> bool {
        false
    }
}

/// Reads the definition in the file `name` of a tree. Blocks.
fn read(tree: &Ref, name: &str, cancel: &Cancel) -> Result<Definition, OperationError> {
    if name.contains('\0') {
        let name = name.to_owned();
        return Err(NestedError::Path { name }.into());
    }
    let view = tree.view_until(cancel)?;
    let found = view.resolve(name.as_bytes(), true);
    let (path, node) = found.map_err(NestedError::File)?;
    let Some(files) = node.files().filter(|_| node.entry().kind == Kind::File) else {
        return Err(NestedError::NotAFile { path }.into());
    };
    let limit = Limits::default().definition_bytes;
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    let bytes = (|| {
        let mut bytes = Vec::new();
        let file = files.open(&path)?;
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    })();
    let bytes: Vec<u8> = bytes.map_err(|source: std::io::Error| NestedError::Read {
        path: path.clone(),
        source: Arc::new(source),
    })?;
    if bytes.len() > limit {
        let size = node.entry().size;
        return Err(NestedError::TooLarge { path, size, limit }.into());
    }
    Definition::decode(bytes).map_err(|error| {
        let source = Arc::new(error);
        NestedError::Decode { path, source }.into()
    })
}
