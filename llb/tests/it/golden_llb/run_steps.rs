//! Run steps of recipes.

use ashlar_llb::{Cache, ContentCache, Mount, Run, Secret, Sharing, Ssh, State, Tmpfs, pb};

use super::fields::{Fields, Result, integer, octal, unsupported, wrapped};
use super::marshal::{WithUniqueId as _, constrain};
use super::metadata;
use super::steps::Recipe;

pub(super) fn run(recipe: &Recipe, from: &State, fields: Fields<'_>) -> Result<Run> {
    // In the original the arguments are among what a reset of the state resets.
    let reset = fields
        .list("with")
        .iter()
        .any(|value| value.get("reset").is_some());
    let (line, args) = (fields.text("shlex"), fields.texts("args"));
    let (line, args) = if reset {
        (None, Vec::new())
    } else {
        (line, args)
    };
    let mut run = match line {
        Some(line) => from.run_line(line),
        None => from.run(args),
    };
    for value in fields.list("with") {
        let setting = Fields::new(value);
        let mut failure = None;
        run = run.with(|state| match metadata::apply(recipe, &state, &setting) {
            Ok(changed) => changed.unwrap_or(state),
            Err(error) => {
                failure = Some(error);
                state
            }
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        setting.finish()?;
    }
    if fields.value("valid_exit_codes").is_some() {
        let codes = fields.list("valid_exit_codes").iter();
        let codes = codes.map(|code| wrapped(code.as_i64().expect("exit code")).cast_signed());
        run = run.valid_exit_codes(codes);
    }
    if fields.flag("readonly_rootfs") {
        run = run.readonly_root();
    }
    if let Some(proxy) = fields.object("proxy") {
        let text = |key| proxy.text(key).unwrap_or_default().to_owned();
        run = run.proxy(pb::ProxyEnv {
            http_proxy: text("http"),
            https_proxy: text("https"),
            ftp_proxy: text("ftp"),
            no_proxy: text("no"),
            all_proxy: text("all"),
        });
        proxy.finish()?;
    }
    for value in fields.list("mounts") {
        let fields = Fields::new(value);
        run = run.mount(fields.need("target"), mount(recipe, fields)?);
    }
    for value in fields.list("secrets") {
        run = run.secret(secret(Fields::new(value))?);
    }
    for value in fields.list("ssh") {
        run = run.ssh(ssh(Fields::new(value))?);
    }
    for value in fields.list("cdi_devices") {
        let device = Fields::new(value);
        let name = device.need("name");
        let optional = device.flag("optional");
        run = if optional {
            run.optional_device(name)
        } else {
            run.device(name)
        };
        device.finish()?;
    }
    let run = constrain!(recipe, run, fields, |it, platform| it.platform(platform));
    fields.finish()?;
    Ok(run)
}

/// Reads a mount; its target was looked at already.
pub(super) fn mount(recipe: &Recipe, fields: Fields<'_>) -> Result<Mount> {
    let mut mount = Mount::bind(recipe.state(fields.need("source"))?);
    if fields.flag("readonly") {
        mount = mount.readonly();
    }
    if let Some(path) = fields.text("source_path") {
        mount = mount.source_path(path);
    }
    if fields.flag("force_no_output") {
        mount = mount.no_output();
    }
    mount = match fields.text("content_cache") {
        None => mount,
        Some("default") => mount.content_cache(ContentCache::Default),
        Some("on") => mount.content_cache(ContentCache::On),
        Some("off") => mount.content_cache(ContentCache::Off),
        Some(other) => return unsupported(format!("content cache {other}")),
    };
    if let Some(cache) = fields.object("cache") {
        let sharing = match cache.need("sharing") {
            "shared" => Sharing::Shared,
            "private" => Sharing::Private,
            "locked" => Sharing::Locked,
            other => return unsupported(format!("sharing {other}")),
        };
        mount = mount.cache(Cache::new(cache.need("id"), sharing));
        cache.finish()?;
    }
    if let Some(tmpfs) = fields.object("tmpfs") {
        let size = tmpfs.number("size").map(integer).transpose()?;
        mount = mount.tmpfs(size.map_or_else(Tmpfs::new, Tmpfs::sized));
        tmpfs.finish()?;
    }
    let _ = fields.value("target");
    let _ = fields.value("run");
    fields.finish()?;
    Ok(mount)
}

fn secret(fields: Fields<'_>) -> Result<Secret> {
    let mut secret = match (fields.text("dest"), fields.text("id_only")) {
        (Some(dest), None) => Secret::file(dest),
        (None, Some(id)) => Secret::new(id),
        _ => return unsupported("secret that is neither file nor id"),
    };
    if let Some(target) = fields.text("with_dest") {
        secret = secret.target(target);
    }
    for value in fields.list("options") {
        let option = Fields::new(value);
        if option.flag("optional") {
            secret = secret.optional();
        }
        if let Some(id) = option.text("id") {
            secret = secret.id(id);
        }
        if let Some(value) = option.value("as_env") {
            secret = secret.as_env(value.as_bool().expect("bool"));
        }
        if let Some(name) = option.text("as_env_name") {
            secret = secret.env_name(name);
        }
        if let Some(file) = option.object("file_opt") {
            let (uid, gid, mode) = owner_and_mode(&file)?;
            secret = secret.owner_and_mode(uid, gid, mode);
            file.finish()?;
        }
        option.finish()?;
    }
    fields.finish()?;
    Ok(secret)
}

fn ssh(fields: Fields<'_>) -> Result<Ssh> {
    let mut ssh = Ssh::new();
    for value in fields.list("options") {
        let option = Fields::new(value);
        if let Some(id) = option.text("id") {
            ssh = ssh.id(id);
        }
        if let Some(target) = option.text("target") {
            ssh = ssh.target(target);
        }
        if let Some(socket) = option.object("socket_opt") {
            let (uid, gid, mode) = owner_and_mode(&socket)?;
            ssh = ssh
                .target(socket.text("target").unwrap_or_default())
                .owner_and_mode(uid, gid, mode);
            socket.finish()?;
        }
        if option.flag("optional") {
            ssh = ssh.optional();
        }
        option.finish()?;
    }
    fields.finish()?;
    Ok(ssh)
}

fn owner_and_mode(fields: &Fields<'_>) -> Result<(u32, u32, u32)> {
    let id = |key| wrapped(fields.number(key).unwrap_or_default());
    Ok((id("uid"), id("gid"), octal(fields.need("mode"))))
}
