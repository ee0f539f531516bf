//! What this machine lets steps do, found out by doing it.
//!
//! Owns three things kept apart: [`Findings`], plain data from one look at the machine, each thing
//! done once in a throw-away child; [`Obstacle`], something that is missing, with its reason and
//! its remedy; [`Capabilities`], what follows for a build. [`Capabilities::decide`] is a pure
//! function from the first to the last, so that every answer is tested without the machine that
//! gives it.
//!
//! Invariant: nothing degrades silently. What is not there is an obstacle, and what needs it is
//! refused with that obstacle or says that it goes without.
//!
//! Leaves to others: running steps, and the clean-up of what a failed attempt could have left: the
//! attempts are made below a directory of the caller's that is removed with everything in it.

mod findings;
mod obstacle;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use ashlar_sandbox::Spawner;

pub use findings::{Attempt, Findings};
pub use obstacle::{Obstacle, Stops};

use super::ExecutorError;
use findings::errno;

/// How steps are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExecTier {
    /// As root of the machine: every id, device and mode is real.
    Root,
    /// In a user namespace with one user and one group. Owners, devices and what else the user
    /// may not set live in the index of a layer and come back on export.
    SingleId,
    /// Not at all. Sources, file ops, merges, exports and the cache work.
    None,
}

/// What steps can have on this machine, and what they cannot, with reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// How steps are run.
    pub tier: ExecTier,
    /// Everything that was found missing, what stops most first.
    pub obstacles: Vec<Obstacle>,
}

impl Capabilities {
    /// Looks at the machine: starts about three throw-away processes below `directory`, which
    /// must exist and should be on the file system of the state root, because it is there that
    /// overlay mounts have to work. Blocks for about ten milliseconds; nothing is left behind.
    ///
    /// # Errors
    /// [`ExecutorError::Start`] if no process can be attempted at all, [`ExecutorError::Probe`] if
    /// `directory` cannot be written.
    pub fn probe(directory: &Path) -> Result<Self, ExecutorError> {
        let spawner = Spawner::new().map_err(|source| ExecutorError::Start { source })?;
        Self::probe_with(&spawner, directory)
    }

    /// The same with a spawner that is there already.
    pub(super) fn probe_with(spawner: &Spawner, directory: &Path) -> Result<Self, ExecutorError> {
        let findings = Findings::look(spawner, directory);
        let findings = findings.map_err(|source: io::Error| ExecutorError::Probe {
            directory: directory.to_owned(),
            source,
        })?;
        Ok(Self::decide(&findings))
    }

    /// What follows from what was found. A pure function.
    ///
    /// ```
    /// use ashlar_solver::executor::{Attempt, Capabilities, ExecTier, Findings};
    ///
    /// let mut findings = Findings::all_works(1000);
    /// assert_eq!(Capabilities::decide(&findings).tier, ExecTier::SingleId);
    /// findings.processes = Attempt::refused("create the process with its namespaces", "", 1);
    /// findings.apparmor_restricts_namespaces = true;
    /// let capabilities = Capabilities::decide(&findings);
    /// assert_eq!(capabilities.tier, ExecTier::None);
    /// let obstacle = capabilities.exec_obstacle().expect("there is one");
    /// assert!(obstacle.remedy().contains("kernel.apparmor_restrict_unprivileged_userns"));
    /// ```
    #[must_use]
    pub fn decide(findings: &Findings) -> Self {
        let mut obstacles = Vec::new();
        obstacles.extend(process_obstacle(findings));
        if obstacles.is_empty() {
            obstacles.extend(overlay_obstacle(findings));
        }
        let tier = match (obstacles.is_empty(), findings.is_root()) {
            (false, _) => ExecTier::None,
            (true, true) => ExecTier::Root,
            (true, false) => ExecTier::SingleId,
        };
        if tier != ExecTier::None {
            if let Attempt::Refused { step, errno, .. } = &findings.network_namespace {
                obstacles.push(Obstacle::NoNetworkNamespace {
                    step: step.clone(),
                    errno: *errno,
                });
            }
            if let Attempt::Refused { errno, .. } = findings.tunnel_device {
                obstacles.push(Obstacle::NoTunnelDevice { errno });
            }
        }
        if tier == ExecTier::SingleId {
            obstacles.push(Obstacle::OneUser);
        }
        if let Attempt::Refused { step, errno, .. } = &findings.control_groups {
            obstacles.push(Obstacle::NoControlGroups {
                step: step.clone(),
                errno: *errno,
            });
        }
        Self { tier, obstacles }
    }

    /// The first obstacle that stops `what`; `None` if nothing does.
    #[must_use]
    pub fn obstacle_to(&self, what: Stops) -> Option<&Obstacle> {
        self.obstacles
            .iter()
            .find(|obstacle| obstacle.stops() == what)
    }

    /// Why no step can be run; `None` if steps can be run.
    #[must_use]
    pub fn exec_obstacle(&self) -> Option<&Obstacle> {
        self.obstacle_to(Stops::Exec)
    }
}

/// Why no process can be started in namespaces of its own, by the step that failed.
fn process_obstacle(findings: &Findings) -> Option<Obstacle> {
    let Attempt::Refused {
        step,
        object,
        errno,
    } = &findings.processes
    else {
        return None;
    };
    let created = step == findings::CLONE;
    let mapped = step == findings::ID_MAP;
    let forbidden = matches!(*errno, errno::EPERM | errno::EACCES);
    Some(match *errno {
        errno::ENOSPC | errno::EUSERS if created => Obstacle::NamespaceLimit {
            limit: findings.max_user_namespaces,
        },
        errno::ENOSYS if created && findings.has_seccomp => Obstacle::Seccomp,
        errno::ENOSYS if created => Obstacle::OldKernel {
            what: "clone3".to_owned(),
        },
        _ if created && findings.is_root() && forbidden => Obstacle::RootWithoutPower {
            seccomp: findings.has_seccomp,
        },
        // The switches of the kernel first: they are certain. A filter is only there or not.
        _ if created && forbidden && !findings.unprivileged_namespaces => {
            Obstacle::UnprivilegedNamespacesOff
        }
        _ if created && findings.max_user_namespaces == Some(0) => Obstacle::NamespaceLimit {
            limit: findings.max_user_namespaces,
        },
        _ if forbidden && findings.apparmor_restricts_namespaces && !findings.is_root() => {
            Obstacle::AppArmor
        }
        _ if (created || mapped) && forbidden && findings.has_seccomp => Obstacle::Seccomp,
        _ if forbidden && (object == "/proc" || object == "/sys") => Obstacle::MaskedProc {
            path: object.clone(),
        },
        other => Obstacle::Refused {
            step: step.clone(),
            object: object.clone(),
            errno: other,
        },
    })
}

/// Why a process can be started, but not on layers.
fn overlay_obstacle(findings: &Findings) -> Option<Obstacle> {
    let Attempt::Refused {
        step,
        object,
        errno,
    } = &findings.overlay
    else {
        return None;
    };
    Some(match *errno {
        errno::ENODEV => Obstacle::NoOverlay,
        errno::EPERM if !findings.is_root() => Obstacle::OverlayNotForUsers {
            kernel: findings.kernel,
        },
        errno::EINVAL => Obstacle::OverlayFileSystem {
            directory: findings.directory.clone(),
        },
        other => Obstacle::Refused {
            step: step.clone(),
            object: object.clone(),
            errno: other,
        },
    })
}
