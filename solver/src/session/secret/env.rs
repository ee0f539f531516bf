//! Secrets in variables of the environment.

use std::os::unix::ffi::OsStringExt as _;

use async_trait::async_trait;

use super::{SecretError, SecretProvider, SecretValue};

/// A secret in a variable of the environment of this process, read when a step asks for it. If the
/// variable is not set, there is no such secret.
///
/// This is the one place where the engine reads the environment, and only the variable that the
/// caller names.
#[derive(Debug, Clone)]
pub struct EnvSecret {
    id: String,
    variable: String,
}

impl EnvSecret {
    /// The secret `id` in the variable `variable`.
    pub fn new(id: impl Into<String>, variable: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            variable: variable.into(),
        }
    }
}

#[async_trait]
impl SecretProvider for EnvSecret {
    async fn secret(&self, id: &str) -> Result<Option<SecretValue>, SecretError> {
        let usable = !self.variable.is_empty() && !self.variable.contains(['=', '\0']);
        if id != self.id || !usable {
            return Ok(None);
        }
        // The caller asks for this variable by making the value.
        let value = std::env::var_os(&self.variable);
        Ok(value.map(|value| SecretValue::new(value.into_vec())))
    }
}
