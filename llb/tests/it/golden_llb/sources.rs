//! Source steps of recipes.

use ashlar_llb::{self as llb, BlobDigest, Differ, GitModifiedTime, ResolveMode, State};

use super::fields::{Fields, Result, integer, octal, text, unsupported};
use super::marshal::{WithUniqueId as _, constrain};
use super::metadata::image_config;
use super::steps::Recipe;

/// Makes the state of a source step; `None` if it is no source.
pub(super) fn source(recipe: &Recipe<'_>, step: &Fields<'_>) -> Result<Option<State>> {
    let state = if let Some(fields) = step.object("scratch") {
        fields.finish()?;
        llb::scratch()
    } else if let Some(fields) = step.object("image") {
        image(recipe, fields)?
    } else if let Some(fields) = step.object("local") {
        local(recipe, fields)?
    } else if let Some(fields) = step.object("oci_layout") {
        oci_layout(recipe, fields)?
    } else if let Some(fields) = step.object("http") {
        http(recipe, fields)?
    } else if let Some(fields) = step.object("git") {
        git(recipe, fields)?
    } else if let Some(fields) = step.object("image_blob") {
        let blob = llb::image_blob(fields.need("ref"));
        blob_options(recipe, blob, fields)?
    } else if let Some(fields) = step.object("oci_layout_blob") {
        let blob = llb::oci_layout_blob(fields.need("ref"));
        blob_options(recipe, blob, fields)?
    } else if let Some(fields) = step.object("raw_source") {
        raw_source(recipe, fields)?
    } else {
        return Ok(None);
    };
    Ok(Some(state))
}

fn digest(text: &str) -> Result<BlobDigest> {
    match text.parse() {
        Ok(digest) => Ok(digest),
        Err(_) => unsupported(format!("digest {text}")),
    }
}

fn image(recipe: &Recipe<'_>, fields: Fields<'_>) -> Result<State> {
    let resolver = fields.object("meta_resolver");
    let reference = fields.need("ref");
    let mut image = llb::image(reference);
    let pin = fields.flag("resolve_digest");
    let mut config = None;
    if let Some(resolver) = resolver {
        let resolved = resolver.text("ref").unwrap_or(reference);
        let found = digest(resolver.need("digest"))?;
        if pin {
            // A reference with a digest is not replaced by what it resolved to.
            image = if reference.contains('@') {
                image
            } else {
                llb::image(resolved).pin(found)
            };
        }
        config = resolver.value("config").map(image_config);
        resolver.finish()?;
    }
    match fields.text("resolve_mode") {
        None => {}
        Some("default") => image = image.resolve_mode(ResolveMode::Default),
        Some("pull") => image = image.resolve_mode(ResolveMode::ForcePull),
        Some("local") => image = image.resolve_mode(ResolveMode::PreferLocal),
        Some(other) => return unsupported(format!("resolve mode {other}")),
    }
    if let Some(limit) = fields.number("layer_limit") {
        image = image.layer_limit(integer(limit)?);
    }
    if let Some(checksum) = fields.text("checksum") {
        image = image.checksum(digest(checksum)?);
    }
    if fields.flag("internal") {
        image = image.internal();
    }
    let image = constrain!(recipe, image, fields, |it, platform| it.platform(platform));
    fields.finish()?;
    Ok(match config {
        Some(config) => image.image_config(&config),
        None => image.into(),
    })
}

fn local(recipe: &Recipe<'_>, fields: Fields<'_>) -> Result<State> {
    let mut local = llb::local(fields.need("name"));
    if let Some(session) = fields.text("session_id") {
        local = local.session(session);
    }
    local = local
        .include(fields.texts("include"))
        .exclude(fields.texts("exclude"))
        .follow_paths(fields.texts("follow_paths"));
    if let Some(hint) = fields.text("shared_key_hint") {
        local = local.shared_key_hint(hint);
    }
    if let Some(differ) = fields.object("differ") {
        let kind = match differ.need("type") {
            "none" => Differ::None,
            "metadata" => Differ::Metadata,
            other => return unsupported(format!("differ {other}")),
        };
        let required = differ.flag("required");
        local = if required {
            local.require_differ(kind)
        } else {
            local.differ(kind)
        };
        differ.finish()?;
    }
    if let Some(transfer) = fields.object("metadata_only_transfer") {
        local = local.metadata_only(transfer.texts("exceptions"));
        transfer.finish()?;
    }
    let local = constrain!(recipe, local, fields, |it, platform| it.platform(platform));
    fields.finish()?;
    Ok(local.into())
}

fn oci_layout(recipe: &Recipe<'_>, fields: Fields<'_>) -> Result<State> {
    let mut layout = llb::oci_layout(fields.need("ref"));
    if let Some(store) = fields.object("store") {
        if let Some(session) = store.text("session_id").filter(|id| !id.is_empty()) {
            layout = layout.session(session);
        }
        if let Some(id) = store.text("store_id").filter(|id| !id.is_empty()) {
            layout = layout.store(id);
        }
        store.finish()?;
    }
    if let Some(limit) = fields.number("layer_limit") {
        layout = layout.layer_limit(integer(limit)?);
    }
    // The original takes a checksum and does nothing with it; the builder has no such option.
    let _ = fields.value("checksum");
    let layout = constrain!(recipe, layout, fields, |it, platform| {
        it.platform(platform)
    });
    fields.finish()?;
    Ok(layout.into())
}

fn http(recipe: &Recipe<'_>, fields: Fields<'_>) -> Result<State> {
    let mut http = llb::http(fields.need("url"));
    if let Some(checksum) = fields.text("checksum") {
        http = http.checksum(digest(checksum)?);
    }
    if let Some(name) = fields.text("filename") {
        http = http.filename(name);
    }
    if let Some(mode) = fields.text("chmod") {
        http = http.mode(octal(mode));
    }
    if let Some(owner) = fields.value("chown") {
        let id = |position: usize| integer(owner[position].as_i64().expect("id"));
        http = http.owner(id(0)?, id(1)?);
    }
    if let Some(secret) = fields.text("auth_header_secret") {
        http = http.auth_header_secret(secret);
    }
    if let Some(header) = fields.object("header") {
        http = http.accept(header.text("accept").unwrap_or_default());
        http = http.user_agent(header.text("user_agent").unwrap_or_default());
        header.finish()?;
    }
    if let Some(signature) = fields.object("pgp_signature") {
        http = http.pgp_signature(signature.need("pubkey"), signature.need("signature"));
        signature.finish()?;
    }
    let http = constrain!(recipe, http, fields, |it, platform| it.platform(platform));
    fields.finish()?;
    Ok(http.into())
}

fn git(recipe: &Recipe<'_>, fields: Fields<'_>) -> Result<State> {
    let mut git = llb::git(fields.need("url"));
    if let Some(fragment) = fields.text("fragment") {
        git = git.fragment(fragment);
    }
    if let Some(reference) = fields.text("ref") {
        git = git.reference(reference);
    }
    if let Some(subdir) = fields.text("subdir") {
        git = git.subdir(subdir);
    }
    if fields.flag("keep_git_dir") {
        git = git.keep_git_dir();
    }
    if let Some(secret) = fields.text("auth_token_secret") {
        git = git.auth_token_secret(secret);
    }
    if let Some(secret) = fields.text("auth_header_secret") {
        git = git.auth_header_secret(secret);
    }
    for lines in fields.list("known_ssh_hosts") {
        git = git.known_ssh_hosts(text(lines));
    }
    if let Some(agent) = fields.text("mount_ssh_sock") {
        git = git.ssh_agent(agent);
    }
    if let Some(commit) = fields.text("checksum") {
        git = git.checksum(commit);
    }
    if fields.flag("skip_submodules") {
        git = git.skip_submodules();
    }
    match fields.text("mtime") {
        None => {}
        Some("checkout") => git = git.modified_time(GitModifiedTime::Checkout),
        Some("commit") => git = git.modified_time(GitModifiedTime::Commit),
        Some(other) => return unsupported(format!("git mtime {other}")),
    }
    if fields.flag("fetch_by_commit") {
        git = git.fetch_by_commit();
    }
    if let Some(bundle) = fields.object("bundle") {
        git = git.bundle(bundle.need("locator"));
        if let Some(store) = bundle.object("oci_store") {
            git = git.bundle_store(store.need("session_id"), store.need("store_id"));
            store.finish()?;
        }
        bundle.finish()?;
    }
    if fields.flag("checkout_bundle") {
        git = git.checkout_bundle();
    }
    let git = constrain!(recipe, git, fields, |it, platform| it.platform(platform));
    fields.finish()?;
    Ok(git.into())
}

fn blob_options(recipe: &Recipe<'_>, mut blob: llb::Blob, fields: Fields<'_>) -> Result<State> {
    if let Some(name) = fields.text("filename") {
        blob = blob.filename(name);
    }
    if let Some(mode) = fields.text("chmod") {
        blob = blob.mode(octal(mode));
    }
    if let Some(owner) = fields.value("chown") {
        let id = |position: usize| integer(owner[position].as_i64().expect("id"));
        blob = blob.owner(id(0)?, id(1)?);
    }
    if let Some(store) = fields.object("store") {
        if let Some(session) = store.text("session_id").filter(|id| !id.is_empty()) {
            blob = blob.session(session);
        }
        if let Some(id) = store.text("store_id").filter(|id| !id.is_empty()) {
            blob = blob.store(id);
        }
        store.finish()?;
    }
    let blob = constrain!(recipe, blob, fields, |it, platform| it.platform(platform));
    fields.finish()?;
    Ok(blob.into())
}

fn raw_source(recipe: &Recipe<'_>, fields: Fields<'_>) -> Result<State> {
    let mut source = llb::raw_source(fields.text("identifier").unwrap_or_default());
    if let Some(attrs) = fields.value("attrs") {
        for (key, value) in attrs.as_object().expect("attrs") {
            source = source.attribute(key, text(value));
        }
    }
    let source = constrain!(recipe, source, fields, |it, platform| {
        it.platform(platform)
    });
    fields.finish()?;
    Ok(source.into())
}
