//! State metadata of recipes.

use ashlar_llb::{ImageConfig, Network, Platform, Security, State, UlimitName};
use serde_json::Value;

use super::fields::{Fields, Result, text, unsupported};
use super::steps::Recipe;

pub(super) fn platform(value: &Value) -> Result<Platform> {
    let fields = Fields::new(value);
    let mut platform = Platform::linux_amd64();
    fields.need("os").clone_into(&mut platform.os);
    fields.need("arch").clone_into(&mut platform.architecture);
    platform.variant = fields.text("variant").unwrap_or_default().to_owned();
    platform.os_version = fields.text("os_version").unwrap_or_default().to_owned();
    let features = fields.texts("os_features").into_iter();
    platform.os_features = features.map(str::to_owned).collect();
    fields.finish()?;
    Ok(platform)
}

/// Applies one setting; `None` if the object does not start with one.
pub(super) fn apply(recipe: &Recipe, state: &State, fields: &Fields<'_>) -> Result<Option<State>> {
    let state = if let Some(pair) = fields.value("env") {
        state.env(text(&pair[0]), text(&pair[1]))
    } else if let Some(path) = fields.text("dir") {
        state.dir(path)
    } else if let Some(user) = fields.text("user") {
        state.user(user)
    } else if let Some(hostname) = fields.text("hostname") {
        state.hostname(hostname)
    } else if let Some(mode) = fields.text("network") {
        state.network(match mode {
            "sandbox" => Network::Sandbox,
            "host" => Network::Host,
            "none" => Network::None,
            _ => return unsupported(format!("network {mode}")),
        })
    } else if let Some(mode) = fields.text("security") {
        state.security(match mode {
            "sandbox" => Security::Sandbox,
            "insecure" => Security::Insecure,
            _ => return unsupported(format!("security mode {mode}")),
        })
    } else if let Some(pair) = fields.value("extra_host") {
        match text(&pair[1]).parse() {
            Ok(ip) => state.extra_host(text(&pair[0]), ip),
            Err(_) => state.extra_host_without_address(text(&pair[0])),
        }
    } else if let Some(limit) = fields.object("ulimit") {
        let (soft, hard) = (limit.number("soft"), limit.number("hard"));
        let name = UlimitName::other(limit.need("name"));
        let state = state.ulimit(name, soft.expect("soft"), hard.expect("hard"));
        limit.finish()?;
        state
    } else if let Some(parent) = fields.text("cgroup_parent") {
        state.cgroup_parent(parent)
    } else if let Some(value) = fields.value("platform") {
        state.platform(platform(value)?)
    } else if let Some(config) = fields.value("image_config") {
        state.image_config(&image_config(config))
    } else if let Some(other) = fields.text("reset") {
        state.reset(recipe.state(other)?)
    } else {
        return Ok(None);
    };
    Ok(Some(state))
}

/// The parts of an OCI image configuration that matter to states; others are ignored.
pub(super) fn image_config(value: &Value) -> ImageConfig {
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(string).collect()
    };
    let mut platform = Platform::linux_amd64();
    platform.os = string(&value["os"]);
    platform.architecture = string(&value["architecture"]);
    platform.variant = string(&value["variant"]);
    platform.os_version = string(&value["os.version"]);
    platform.os_features = strings(&value["os.features"]);
    let named = !platform.os.is_empty() && !platform.architecture.is_empty();
    ImageConfig {
        env: strings(&value["config"]["Env"]),
        working_dir: string(&value["config"]["WorkingDir"]),
        platform: named.then_some(platform),
    }
}

pub(super) fn resources(value: &Value) -> Result<ashlar_llb::pb::LinuxResources> {
    let fields = Fields::new(value);
    let number = |key| fields.number(key).unwrap_or_default();
    let unsigned = |key| {
        let value = fields.value(key);
        value.map_or(0, |value| value.as_u64().expect("number"))
    };
    let text = |key| fields.text(key).unwrap_or_default().to_owned();
    let resources = ashlar_llb::pb::LinuxResources {
        memory: number("memory"),
        memory_swap: number("memory_swap"),
        cpu_shares: unsigned("cpu_shares"),
        cpu_period: unsigned("cpu_period"),
        cpu_quota: number("cpu_quota"),
        cpuset_cpus: text("cpuset_cpus"),
        cpuset_mems: text("cpuset_mems"),
    };
    fields.finish()?;
    Ok(resources)
}
