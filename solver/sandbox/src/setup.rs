//! What the new process does before it becomes the program.
//!
//! Owns: the code between `clone3` and `execve`. The process shares the memory of the host until
//! then, so that this code allocates nothing, takes no lock, calls nothing of the standard library
//! that could, and writes only to its stack and to the places of the [`Plan`] made for it.

mod identity;
pub(crate) mod mount_api;
mod mounts;
mod terminal;
pub(crate) mod walk;
mod wire;

use crate::Step;
use crate::plan::{Failure as Failed, NO_INTERPRETER, Object, Plan, REFUSED};
use crate::sys;
use std::ffi::c_void;
use walk::{Create, Walker};

/// Names the step and object of a kernel error.
trait At<T> {
    fn at(self, step: Step, object: Object) -> Result<T, Failed>;
}

impl<T> At<T> for sys::Result<T> {
    fn at(self, step: Step, object: Object) -> Result<T, Failed> {
        match self {
            Ok(value) => Ok(value),
            Err(errno) => Err(Failed {
                step,
                object,
                errno,
            }),
        }
    }
}

/// What the child works on.
pub(crate) struct Work<'a> {
    pub(crate) plan: &'a mut Plan,
    pub(crate) walker: &'a mut Walker,
}

/// Where the child starts. Reports a failure into the plan and exits.
///
/// # Safety
/// `work` points to a [`Work`] that nothing else touches, nor what it refers to, until the process
/// has executed a program or ended.
pub(crate) unsafe extern "C" fn child_main(work: *mut c_void) -> ! {
    // SAFETY: the caller's promise; the parent thread is suspended.
    let Work { plan, walker } = unsafe { &mut *work.cast::<Work<'_>>() };
    let failed = match run(plan, walker) {
        Ok(never) => match never {},
        Err(failed) => failed,
    };
    plan.report.step = failed.step.code();
    plan.report.object = failed.object;
    plan.report.errno = failed.errno;
    sys::exit(127)
}

fn run(plan: &mut Plan, walker: &mut Walker) -> Result<std::convert::Infallible, Failed> {
    identity::isolate(plan)?;
    plan.report.step = Step::Wire.code();
    wire::connect(plan)?;
    plan.report.step = Step::Source.code();
    let mut parts = mounts::enter_root(plan, walker)?;
    plan.report.step = Step::Attach.code();
    mounts::attach_all(plan, walker, &mut parts)?;
    mounts::prepare_inner(plan, walker, &mut parts)?;
    identity::null_streams(plan)?;
    terminal::make(plan)?;
    identity::host_name(plan)?;
    plan.report.step = Step::Cwd.code();
    enter_directory(plan, walker)?;
    mounts::protect_root(plan)?;
    identity::limits(plan)?;
    plan.report.step = Step::Credentials.code();
    identity::filter(plan)?;
    identity::credentials(plan)?;
    plan.report.step = Step::Exec.code();
    Err(execute(plan))
}

fn enter_directory(plan: &Plan, walker: &mut Walker) -> Result<(), Failed> {
    let create = Create {
        file: false,
        owner: Some((plan.uid, plan.gid)),
        record: false,
    };
    let cwd = walker
        .open(&plan.cwd, create)
        .at(Step::Cwd, plan.cwd_object)?;
    sys::fchdir(cwd).at(Step::Cwd, plan.cwd_object)?;
    let mut here = [0u8; 4096];
    // SAFETY: the buffer is valid and writable for its length.
    unsafe { sys::call!(libc::SYS_getcwd, here.as_mut_ptr(), here.len()) }
        .at(Step::Cwd, plan.cwd_object)?;
    // Outside of the root the kernel answers "(unreachable)...".
    if here[0] != b'/' {
        return Err(Failed {
            step: Step::Cwd,
            object: plan.cwd_object,
            errno: REFUSED,
        });
    }
    Ok(())
}

/// Tries the candidates in order, as execvp(3) does.
fn execute(plan: &Plan) -> Failed {
    let mut errno = libc::ENOENT;
    for path in &plan.candidates {
        match sys::execve(path, &plan.argv, &plan.envp) {
            libc::ENOENT if sys::exists(path) => {
                errno = NO_INTERPRETER;
                break;
            }
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => errno = libc::EACCES,
            other => {
                errno = other;
                break;
            }
        }
    }
    Failed {
        step: Step::Exec,
        object: plan.program_object,
        errno,
    }
}
