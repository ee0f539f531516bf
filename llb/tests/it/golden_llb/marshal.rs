//! Options that every op takes, and the parameters of marshalling.

use ashlar_llb::{Constraints, SourceRange};
use serde_json::Value;

use super::fields::{Fields, Result, integer};
use super::metadata::platform;

/// Applies the `constraints` of a step to a builder. `$platform` tells what to do with the
/// platform.
macro_rules! constrain {
    ($recipe:expr, $builder:expr, $fields:expr, |$it:ident, $platform:pat_param| $apply:expr) => {{
        let mut builder = $builder;
        let constraints = $fields.value("constraints");
        if let Some(value) = constraints {
            let fields = super::fields::Fields::new(value);
            if let Some(value) = fields.value("platform") {
                let $it = builder;
                let $platform = super::metadata::platform(value)?;
                builder = $apply;
            }
            if fields.flag("ignore_cache") {
                builder = builder.ignore_cache();
            }
            if let Some(texts) = fields.value("description") {
                for (key, text) in texts.as_object().expect("description") {
                    builder = builder.description(key, super::fields::text(text));
                }
            }
            if let Some(name) = fields.text("custom_name") {
                builder = builder.custom_name(name);
            }
            builder = match fields.text("export_cache") {
                None => builder,
                Some("on") => builder.export_cache(true),
                Some("off") => builder.export_cache(false),
                Some("on_then_reset") => builder.export_cache(true).default_export_cache(),
                Some(other) => return super::fields::unsupported(format!("export {other}")),
            };
            if let Some(group) = fields.object("progress_group") {
                let (id, name) = (group.need("id"), group.need("name"));
                builder = if group.flag("weak") {
                    builder.weak_progress_group(id, name)
                } else {
                    builder.progress_group(id, name)
                };
                group.finish()?;
            }
            builder = builder.require(fields.texts("require"));
            if let Some(value) = fields.value("linux_resources") {
                builder = builder.linux_resources(super::metadata::resources(value)?);
            }
            for location in fields.list("locations") {
                let location = super::fields::Fields::new(location);
                let map = $recipe.source_map(location.need("source_map"));
                let ranges = super::marshal::ranges(location.list("ranges"))?;
                builder = builder.location(&map, ranges);
                location.finish()?;
            }
            // Local sources look at it before, others have no use for it.
            if builder.takes_unique_id() {
                let _ = fields.value("local_unique_id");
            }
            fields.finish()?;
        }
        builder
    }};
}

pub(super) use constrain;

/// Tells local sources from other builders.
pub(super) trait TakesUniqueId {
    fn takes_unique_id(&self) -> bool {
        false
    }
}

macro_rules! no_unique_id {
    ($($type:ty)*) => { $(impl TakesUniqueId for $type {})* };
}

no_unique_id! {
    ashlar_llb::Blob
    ashlar_llb::FileActions
    ashlar_llb::Git
    ashlar_llb::Http
    ashlar_llb::Image
    ashlar_llb::OciLayout
    ashlar_llb::OpState
    ashlar_llb::Passthrough
    ashlar_llb::RawSource
    ashlar_llb::Run
    Constraints
}

impl TakesUniqueId for ashlar_llb::Local {
    fn takes_unique_id(&self) -> bool {
        true
    }
}

pub(super) fn ranges(values: &[Value]) -> Result<Vec<SourceRange>> {
    let position = |value: &Value| -> Result<(i32, i32)> {
        let number = |value: &Value| integer(value.as_i64().expect("number"));
        Ok((number(&value[0])?, number(&value[1])?))
    };
    let range = |value: &Value| {
        let start = position(&value["start"])?;
        Ok(SourceRange::new(start, position(&value["end"])?))
    };
    values.iter().map(range).collect()
}

/// Reads the parameters of marshalling.
pub(super) fn constraints(recipe: &super::steps::Recipe<'_>, value: &Value) -> Result<Constraints> {
    let fields = Fields::new(value);
    let mut constraints = Constraints::new(platform(fields.value("platform").expect("platform"))?);
    if let Some(id) = fields.text("local_unique_id") {
        constraints = constraints.local_unique_id(id);
    }
    if fields.value("caps").is_some() {
        constraints = constraints.supported_caps(fields.texts("caps"));
    }
    constraints = constrain!(recipe, constraints, fields, |_it, platform| {
        Constraints::new(platform)
    });
    fields.finish()?;
    Ok(constraints)
}
