//! Options that every op takes, and the parameters of marshalling.

use ashlar_llb::{Constraints, Platform, SourceRange};
use serde_json::Value;

use super::fields::{Fields, Result, integer};
use super::metadata::platform;
use super::steps::Recipe;

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
                let map = $recipe.source_map(location.need("source_map"))?;
                let ranges = super::marshal::ranges(location.list("ranges"))?;
                builder = builder.location(&map, ranges);
                location.finish()?;
            }
            if let Some(id) = fields.text("local_unique_id") {
                builder = builder.with_unique_id(id);
            }
            fields.finish()?;
        }
        builder
    }};
}

pub(super) use constrain;

/// Gives local sources an id of their own; other ops have no use for one.
pub(super) trait WithUniqueId: Sized {
    fn with_unique_id(self, _id: &str) -> Self {
        self
    }
}

macro_rules! no_unique_id {
    ($($type:ident)*) => { $(impl WithUniqueId for ashlar_llb::$type {})* };
}

no_unique_id!(Blob FileActions Git Http Image OciBlob OciLayout OpState Passthrough Run);

impl WithUniqueId for ashlar_llb::Local {
    fn with_unique_id(self, id: &str) -> Self {
        self.unique_id(id)
    }
}

impl WithUniqueId for ashlar_llb::RawSource {
    fn with_unique_id(self, id: &str) -> Self {
        self.unique_id(id)
    }
}

impl WithUniqueId for Constraints {
    fn with_unique_id(self, id: &str) -> Self {
        self.local_unique_id(id)
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

/// Reads the parameters of marshalling: defaults of the state, then what is asked.
pub(super) fn constraints(recipe: &Recipe, value: &Value) -> Result<Constraints> {
    let fields = Fields::new(value);
    // The last one given counts.
    let platforms = [
        value["state_defaults"].get("platform"),
        fields.value("platform"),
        value["constraints"].get("platform"),
    ];
    let wanted = platforms.into_iter().flatten().next_back();
    // The vectors were made on this platform.
    let wanted = wanted.map_or_else(|| Ok(Platform::linux_amd64()), platform)?;
    let mut constraints = Constraints::new(wanted);
    if let Some(value) = fields.value("state_defaults") {
        let defaults = serde_json::json!({ "constraints": value });
        constraints = options(recipe, constraints, &Fields::new(&defaults))?;
    }
    if let Some(id) = fields.text("local_unique_id") {
        constraints = constraints.local_unique_id(id);
    }
    if fields.value("caps").is_some() {
        constraints = constraints.supported_caps(fields.texts("caps"));
    }
    constraints = options(recipe, constraints, &fields)?;
    fields.finish()?;
    Ok(constraints)
}

/// Applies options for all ops; the platform was looked at already.
fn options(recipe: &Recipe, constraints: Constraints, fields: &Fields<'_>) -> Result<Constraints> {
    Ok(constrain!(recipe, constraints, fields, |it, _platform| it))
}
