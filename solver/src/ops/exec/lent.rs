//! What the caller lends to a process: secrets and ssh agents, fetched before anything else.
//!
//! Owns the rule which of them must be there. Missing ones that the op can do without are left out:
//! no mount is made, and the variable of a secret is empty, as in BuildKit.

use std::collections::HashMap;
use std::sync::Arc;

use ashlar_llb::pb;
use ashlar_llb::pb::MountType;

use super::ExecError;
use crate::session::{SecretValue, Session, SshAgent};

/// The agent of a mount that names none.
const DEFAULT_AGENT: &str = "default";

/// Secrets and agents of one run, by id; what is missing and not needed is not there.
#[derive(Debug, Default)]
pub(super) struct Lent {
    secrets: HashMap<String, SecretValue>,
    agents: HashMap<String, Arc<dyn SshAgent>>,
}

/// Whether a run of the op depends on what its caller lends.
pub(super) fn borrows(op: &pb::ExecOp) -> bool {
    let lent = |mount: &pb::Mount| matches!(mount.mount_type(), MountType::Secret | MountType::Ssh);
    !op.secretenv.is_empty() || op.mounts.iter().any(lent)
}

/// Gets everything that the op asks for.
pub(super) async fn fetch(op: &pb::ExecOp, session: &Session) -> Result<Lent, ExecError> {
    let mut lent = Lent::default();
    for mount in &op.mounts {
        match mount.mount_type() {
            MountType::Secret => {
                let options = mount.secret_opt.clone().unwrap_or_default();
                lent.secret(&options.id, options.optional, session).await?;
            }
            MountType::Ssh => {
                let options = mount.ssh_opt.clone().unwrap_or_default();
                lent.agent(&options.id, options.optional, session).await?;
            }
            _ => {}
        }
    }
    for variable in &op.secretenv {
        lent.secret(&variable.id, variable.optional, session)
            .await?;
    }
    Ok(lent)
}

impl Lent {
    async fn secret(
        &mut self,
        id: &str,
        optional: bool,
        session: &Session,
    ) -> Result<(), ExecError> {
        if id.is_empty() {
            let reason = "a secret has no id".to_owned();
            return Err(ExecError::Invalid { reason });
        }
        if self.secrets.contains_key(id) {
            return Ok(());
        }
        let found = session.secret(id).await;
        match found.map_err(|source| ExecError::Secret { source })? {
            Some(value) => {
                self.secrets.insert(id.to_owned(), value);
            }
            None if optional => {}
            None => return Err(ExecError::SecretNotFound { id: id.to_owned() }),
        }
        Ok(())
    }

    async fn agent(
        &mut self,
        id: &str,
        optional: bool,
        session: &Session,
    ) -> Result<(), ExecError> {
        let id = agent_id(id);
        if self.agents.contains_key(id) {
            return Ok(());
        }
        match session.ssh.get(id) {
            Some(agent) => {
                // Better told now than by a program in the step that says "connection refused".
                let reached = agent.connect().await;
                reached.map_err(|source| ExecError::AgentUnreachable {
                    id: id.to_owned(),
                    source,
                })?;
                self.agents.insert(id.to_owned(), agent.clone());
            }
            None if optional => {}
            None => return Err(ExecError::AgentNotFound { id: id.to_owned() }),
        }
        Ok(())
    }

    /// The value of a mount; `None`: there is none, and none is needed.
    pub(super) fn value(&self, id: &str) -> Option<&SecretValue> {
        self.secrets.get(id)
    }

    /// The agent of a mount, likewise.
    pub(super) fn agent_of(&self, id: &str) -> Option<&Arc<dyn SshAgent>> {
        self.agents.get(agent_id(id))
    }

    /// The variables that are secret. One whose secret is missing is empty.
    pub(super) fn variables(
        &self,
        op: &pb::ExecOp,
    ) -> Result<Vec<(String, SecretValue)>, ExecError> {
        let variable = |secret: &pb::SecretEnv| {
            let value = self.value(&secret.id).cloned();
            let value = value.unwrap_or_else(|| SecretValue::new(Vec::new()));
            let invalid = |reason: String| Err(ExecError::Invalid { reason });
            if secret.name.is_empty() || secret.name.contains(['=', '\0']) {
                return invalid(format!("{:?} is no name of a variable", secret.name));
            }
            if value.expose().contains(&0) {
                return invalid(format!(
                    "the secret {:?} holds a zero byte, which no variable can",
                    secret.id
                ));
            }
            Ok((secret.name.clone(), value))
        };
        op.secretenv.iter().map(variable).collect()
    }
}

fn agent_id(id: &str) -> &str {
    if id.is_empty() { DEFAULT_AGENT } else { id }
}
