//! Source steps of recipes.

use std::sync::Arc;

use ashlar_llb::{
    self as llb, Checksum, Differ, GitModifiedTime, ImageRequest, ImageResolver, Mode, Reference,
    ResolveMode, ResolvedImage, State,
};

use super::fields::{Fields, Result, integer, octal, text, unsupported};
use super::marshal::{WithUniqueId as _, constrain};
use super::metadata::image_config;
use super::steps::Recipe;

/// Makes the state of a source step; `None` if it is no source.
pub(super) fn source(recipe: &Recipe, step: &Fields<'_>) -> Result<Option<State>> {
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
        image_blob(recipe, fields)?
    } else if let Some(fields) = step.object("oci_layout_blob") {
        oci_layout_blob(recipe, fields)?
    } else if let Some(fields) = step.object("raw_source") {
        raw_source(recipe, fields)?
    } else {
        return Ok(None);
    };
    Ok(Some(state))
}

fn digest(text: &str) -> Result<Checksum> {
    match text.parse() {
        Ok(digest) => Ok(digest),
        Err(_) => unsupported(format!("digest {text}")),
    }
}

fn image(recipe: &Recipe, fields: Fields<'_>) -> Result<State> {
    let mut image = llb::image(fields.need("ref"));
    match fields.text("resolve_mode") {
        None => {}
        Some("default") => image = image.resolve_mode(ResolveMode::Default),
        Some("pull") => image = image.resolve_mode(ResolveMode::ForcePull),
        Some("local") => image = image.resolve_mode(ResolveMode::PreferLocal),
        Some(other) => return unsupported(format!("resolve mode {other}")),
    }
    if let Some(limit) = fields.number("layer_limit") {
        image = match u32::try_from(limit) {
            Ok(limit) => image.layer_limit(limit),
            // The original takes any number.
            Err(_) => image
                .attribute("image.layerlimit", limit.to_string())
                .capability("source.image.layerlimit"),
        };
    }
    if let Some(checksum) = fields.text("checksum").filter(|text| !text.is_empty()) {
        image = image.checksum(digest(checksum)?);
    }
    if fields.flag("internal") {
        image = image.internal();
    }
    let image = constrain!(recipe, image, fields, |it, platform| it.platform(platform));
    let pin = fields.flag("resolve_digest");
    let resolver = fields.object("meta_resolver").map(resolver).transpose()?;
    fields.finish()?;
    Ok(match resolver {
        Some(resolver) if pin => image.pinned_by(Arc::new(resolver)),
        Some(resolver) => image.resolved_by(Arc::new(resolver)),
        None => image.into(),
    })
}

/// Answers every question with one image.
struct Answer {
    reference: Option<Reference>,
    digest: Option<Checksum>,
    config: llb::ImageConfig,
}

fn resolver(fields: Fields<'_>) -> Result<Answer> {
    let reference = fields.text("ref").map(Reference::parse).transpose();
    let found = fields.text("digest").filter(|text| !text.is_empty());
    let answer = Answer {
        reference: reference.expect("reference"),
        digest: found.map(digest).transpose()?,
        config: fields.value("config").map(image_config).unwrap_or_default(),
    };
    fields.finish()?;
    Ok(answer)
}

impl ImageResolver for Answer {
    fn resolve(
        &self,
        request: &ImageRequest,
    ) -> std::result::Result<ResolvedImage, Box<dyn std::error::Error + Send + Sync>> {
        let reference = self.reference.as_ref().unwrap_or(&request.reference);
        let answer = ResolvedImage::new(reference.clone(), self.config.clone());
        Ok(match &self.digest {
            Some(digest) => answer.with_digest(digest.clone()),
            None => answer,
        })
    }
}

fn local(recipe: &Recipe, fields: Fields<'_>) -> Result<State> {
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

fn oci_layout(recipe: &Recipe, fields: Fields<'_>) -> Result<State> {
    let mut layout = llb::oci_layout(fields.need("ref"));
    if let Some(store) = fields.object("store") {
        layout = layout
            .session(store.text("session_id").unwrap_or_default())
            .store(store.text("store_id").unwrap_or_default());
        store.finish()?;
    }
    if let Some(limit) = fields.number("layer_limit") {
        layout = match u32::try_from(limit) {
            Ok(limit) => layout.layer_limit(limit),
            Err(_) => layout.attribute("oci.layerlimit", limit.to_string()),
        };
    }
    // The original takes a checksum and does nothing with it; the builder has no such option.
    let _ = fields.value("checksum");
    let layout = constrain!(recipe, layout, fields, |it, platform| {
        it.platform(platform)
    });
    fields.finish()?;
    Ok(layout.into())
}

fn http(recipe: &Recipe, fields: Fields<'_>) -> Result<State> {
    let mut http = llb::http(fields.need("url"));
    if let Some(checksum) = fields.text("checksum").filter(|text| !text.is_empty()) {
        http = http.checksum(digest(checksum)?);
    }
    if let Some(name) = fields.text("filename") {
        http = http.filename(name);
    }
    if let Some(mode) = fields.text("chmod") {
        http = http.mode(Mode::truncated(octal(mode)));
    }
    if let Some(owner) = fields.value("chown") {
        let id = |position: usize| owner[position].as_i64().expect("id");
        http = match (u32::try_from(id(0)), u32::try_from(id(1))) {
            (Ok(uid), Ok(gid)) => http.owner(uid, gid),
            // The original takes any number.
            _ => [("http.uid", id(0)), ("http.gid", id(1))]
                .into_iter()
                .filter(|(_, id)| *id != 0)
                .fold(http.capability("soruce.http.uidgid"), |http, (key, id)| {
                    http.attribute(key, id.to_string())
                }),
        };
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
        http = http.pgp_signature(
            signature.text("pubkey").unwrap_or_default(),
            signature.text("signature").unwrap_or_default(),
        );
        signature.finish()?;
    }
    let http = constrain!(recipe, http, fields, |it, platform| it.platform(platform));
    fields.finish()?;
    Ok(http.into())
}

fn git(recipe: &Recipe, fields: Fields<'_>) -> Result<State> {
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
        None | Some("") => {}
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
            git = git.bundle_store(
                store.text("session_id").unwrap_or_default(),
                store.text("store_id").unwrap_or_default(),
            );
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

/// Reads the options of the file that a blob of either kind becomes.
macro_rules! blob_file {
    ($recipe:expr, $blob:expr, $fields:expr) => {{
        let mut blob = $blob;
        let fields = $fields;
        if let Some(name) = fields.text("filename") {
            blob = blob.filename(name);
        }
        if let Some(mode) = fields.text("chmod") {
            blob = blob.mode(Mode::truncated(octal(mode)));
        }
        if let Some(owner) = fields.value("chown") {
            let id = |position: usize| integer(owner[position].as_i64().expect("id"));
            blob = blob.owner(id(0)?, id(1)?);
        }
        let blob = constrain!($recipe, blob, fields, |it, platform| it.platform(platform));
        fields.finish()?;
        Ok(blob.into())
    }};
}

fn image_blob(recipe: &Recipe, fields: Fields<'_>) -> Result<State> {
    let blob = llb::image_blob(fields.need("ref"));
    // The original takes a store for these too and does nothing with it.
    let _ = fields.value("store");
    blob_file!(recipe, blob, fields)
}

fn oci_layout_blob(recipe: &Recipe, fields: Fields<'_>) -> Result<State> {
    let mut blob = llb::oci_layout_blob(fields.need("ref"));
    if let Some(store) = fields.object("store") {
        blob = blob
            .session(store.text("session_id").unwrap_or_default())
            .store(store.text("store_id").unwrap_or_default());
        store.finish()?;
    }
    blob_file!(recipe, blob, fields)
}

fn raw_source(recipe: &Recipe, fields: Fields<'_>) -> Result<State> {
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
