//! Whom the trees of a result are for, as exporters see it.

use ashlar_llb::Platform;
use ashlar_solver::refs::Ref;
use ashlar_solver::result::{BuildResult, IMAGE_CONFIG_KEY};

use crate::{ExportError, json};

/// A tree whose id and platform are settled.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    /// The name by which metadata and attestations speak of it; never empty.
    pub(crate) id: String,
    pub(crate) platform: Platform,
    pub(crate) reference: &'a Ref,
    /// What it was built on.
    pub(crate) images: &'a [Ref],
}

/// The trees of a result, in its order. Where nobody told the platform of a single one, its image config does.
pub(crate) fn targets(result: &BuildResult) -> Result<Vec<Target<'_>>, ExportError> {
    let mut targets = Vec::new();
    for tree in result.refs() {
        let config = result.metadata.get(IMAGE_CONFIG_KEY);
        let mut platform = tree.platform.clone();
        if tree.id.is_empty()
            && let Some(config) = config
        {
            platform = platform_of(config)?;
        }
        let platform = platform.normalised();
        let id = if tree.id.is_empty() {
            platform.to_string()
        } else {
            tree.id.clone()
        };
        targets.push(Target {
            id,
            platform,
            reference: &tree.reference,
            images: &tree.images,
        });
    }
    let known = |id: &String| targets.iter().any(|target| target.id == *id);
    match result.attestations.keys().find(|id| !known(id)) {
        Some(id) => Err(ExportError::Option {
            reason: format!("something is attested of {id:?}, which the result has no tree for"),
        }),
        None => Ok(targets),
    }
}

/// The platform that an image config names.
fn platform_of(config: &[u8]) -> Result<Platform, ExportError> {
    let config = json::IMAGE.read(config).map_err(ExportError::json)?;
    let named: Option<ashlar_solver::oci::Platform> =
        serde_json::from_value(config).map_err(ExportError::json)?;
    let named = named.unwrap_or_default();
    if named.os.is_empty() != named.architecture.is_empty() {
        return Err(ExportError::Config {
            reason: "it names an operating system or an architecture, not both".to_owned(),
        });
    }
    Ok((&named).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_names_a_platform_or_none() {
        let named = |config: &str| platform_of(config.as_bytes());
        let whole = named(r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#).unwrap();
        assert_eq!(whole.to_string(), "linux/arm64/v8");
        for none in ["{}", "null", r#"{"os":"","architecture":""}"#] {
            assert_eq!(named(none).unwrap().os, "", "{none}");
        }
        for half in [
            r#"{"os":"linux"}"#,
            r#"{"architecture":"arm64"}"#,
            r#"{"os":"linux","architecture":""}"#,
        ] {
            let error = named(half).unwrap_err();
            assert!(matches!(error, ExportError::Config { .. }), "{half}");
        }
    }
}
