//! From the child's report to a typed error and the list of stubs.

use super::{Failure, NO_INTERPRETER, Plan, REFUSED, TOO_MANY_LAYERS};
use crate::setup::walk::Walker;
use crate::{SandboxError, Step, Stub, StubKind};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What was created as mount points.
pub(crate) fn stubs(walker: &Walker) -> Vec<Stub> {
    walker
        .records()
        .map(|(path, record)| Stub {
            path: PathBuf::from(OsStr::from_bytes(path)),
            kind: if record.file {
                StubKind::File
            } else {
                StubKind::Directory
            },
            parent_before: record.before,
            parent_after: record.after,
        })
        .collect()
}

impl Plan {
    /// What the child reported: `None` if it went as far as the program. Without a reported error
    /// number a child that did not is one that was killed.
    pub(crate) fn failure(&self) -> Option<SandboxError> {
        // SAFETY: the report is a part of `self`; the child wrote it through the shared memory.
        let report = unsafe { std::ptr::read_volatile(&raw const self.report) };
        let step = Step::from_code(report.step);
        if report.errno != 0 {
            let failure = Failure {
                step,
                object: report.object,
                errno: report.errno,
            };
            return Some(self.error(failure));
        }
        (step != Step::Exec).then_some(SandboxError::Died { step })
    }

    fn error(
        &self,
        Failure {
            step,
            object,
            errno,
        }: Failure,
    ) -> SandboxError {
        let object = self.object(object);
        match (step, errno) {
            (Step::Exec, libc::ENOENT) => SandboxError::ProgramNotFound { name: object },
            (Step::Exec, libc::EACCES) => SandboxError::ProgramPermission { name: object },
            (Step::Exec, libc::ENOEXEC) => SandboxError::ProgramFormat { name: object },
            (Step::Exec, NO_INTERPRETER) => SandboxError::InterpreterNotFound { name: object },
            (Step::Cwd, REFUSED) => SandboxError::CwdRefused { cwd: object.into() },
            (_, REFUSED) => SandboxError::TargetRefused {
                target: object.into(),
            },
            (_, TOO_MANY_LAYERS) => SandboxError::TooManyLayers {
                count: self.largest_overlay(),
            },
            (Step::Selector, libc::ENOENT | libc::ENOTDIR) => {
                let selector = self.selector_at(&object);
                SandboxError::SelectorNotFound {
                    target: object.into(),
                    selector,
                }
            }
            _ => {
                let source = io::Error::from_raw_os_error(errno);
                SandboxError::Setup {
                    step,
                    object,
                    source,
                }
            }
        }
    }

    fn object(&self, index: u32) -> OsString {
        usize::try_from(index)
            .ok()
            .and_then(|i| self.objects.get(i))
            .cloned()
            .unwrap_or_default()
    }

    fn planned(&self) -> impl Iterator<Item = &super::PlannedMount> {
        let inner = self.inner.iter();
        let inner = inner.flat_map(|it| std::iter::once(&it.root).chain(&it.mounts));
        std::iter::once(&self.root).chain(&self.mounts).chain(inner)
    }

    fn selector_at(&self, target: &OsStr) -> PathBuf {
        self.planned()
            .find(|m| m.selector.is_some() && self.object(m.target_object) == target)
            .and_then(|m| m.selector.as_deref())
            .map(|s| PathBuf::from(OsStr::from_bytes(s.to_bytes())))
            .unwrap_or_default()
    }

    fn largest_overlay(&self) -> usize {
        let lower = |m: &super::PlannedMount| match &m.source {
            super::PlannedSource::Overlay(overlay) => overlay.lower_count,
            _ => 0,
        };
        self.planned().map(lower).max().unwrap_or(0)
    }
}
