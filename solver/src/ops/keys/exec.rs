//! The key of an exec op.

use ashlar_llb::pb;
use ashlar_llb::pb::{MountContentCache, MountType};

use super::json::{self, Fields, GoJson};
use super::selector::deduplicate_paths;
use super::{InputPlan, KeyError, Selector, digest_joined};
use crate::tree::TreePath;

struct Preimage<'a> {
    op: &'a pb::ExecOp,
    platform: &'a pb::Platform,
}

impl GoJson for Preimage<'_> {
    fn fields(&self, out: &mut Fields<'_>) {
        out.string_always("Type", "buildkit.exec.v0");
        out.object_always("Exec", self.op);
        out.string_always("OS", &self.platform.os);
        out.string_always("Arch", &self.platform.architecture);
        out.string("Variant", &self.platform.variant);
        out.string("OSVersion", &self.platform.os_version);
        out.strings("OSFeatures", &self.platform.os_features);
    }
}

/// The op without what must not cause a miss: addresses of hosts, proxies, names of cache mounts,
/// and selectors, which the keys of the inputs cover.
pub(super) fn preimage(op: &pb::ExecOp, platform: &pb::Platform) -> String {
    let mut op = op.clone();
    if let Some(meta) = &mut op.meta {
        meta.extra_hosts.iter_mut().for_each(|host| host.ip.clear());
        meta.proxy_env = None;
    }
    for mount in &mut op.mounts {
        mount.selector.clear();
        let destination = &mount.dest;
        if let Some(cache) = &mut mount.cache_opt
            && !is_default_cache(cache, destination)
        {
            *cache = pb::CacheOpt::default();
        }
    }
    if let [mount] = &op.mounts[..]
        && is_plain_root(mount)
    {
        op.mounts.clear();
    }
    json::to_string(&Preimage { op: &op, platform })
}

/// Whether it is the cache mount that a Dockerfile makes when nothing is said: named after its
/// destination, maybe in a namespace.
fn is_default_cache(cache: &pb::CacheOpt, destination: &str) -> bool {
    let in_namespace = cache
        .id
        .split_once('/')
        .is_some_and(|(_, name)| name == destination);
    cache.sharing == 0 && (cache.id == destination || in_namespace)
}

/// Whether it is the writable root of an exec without other mounts, which early versions of
/// BuildKit left out of the key.
fn is_plain_root(mount: &pb::Mount) -> bool {
    mount.dest == pb::ROOT_MOUNT
        && !mount.readonly
        && mount.mount_type == MountType::Bind as i32
        && mount.cache_opt.is_none()
        && mount.ssh_opt.is_none()
        && mount.secret_opt.is_none()
        && mount.result_id.is_empty()
}

/// What the mounts show of each input. Of several mounts of one input the last decides whether
/// content counts.
pub(super) fn inputs(op: &pb::ExecOp, count: usize) -> Result<Vec<InputPlan>, KeyError> {
    let mut shown: Vec<(Vec<String>, bool)> = vec![(Vec::new(), false); count];
    for mount in &op.mounts {
        let kind = mount.mount_type();
        if matches!(kind, MountType::Secret | MountType::Ssh | MountType::Tmpfs)
            || mount.input == pb::EMPTY
        {
            continue;
        }
        let (paths, by_content) = usize::try_from(mount.input)
            .ok()
            .and_then(|input| shown.get_mut(input))
            .ok_or_else(|| KeyError::MountInput {
                destination: mount.dest.clone(),
                input: mount.input,
                count,
            })?;
        let path = absolute(&mount.selector);
        *by_content = counts_by_content(mount, &path)?;
        paths.push(path);
    }
    Ok(shown
        .into_iter()
        .map(|(paths, by_content)| plan(&paths, by_content))
        .collect())
}

fn plan(paths: &[String], by_content: bool) -> InputPlan {
    InputPlan {
        selector: (!paths.is_empty()).then(|| digest_joined(paths)),
        content: by_content.then(|| {
            let paths = deduplicate_paths(paths.iter().map(String::as_str));
            if paths.contains(&"/") {
                return Vec::new();
            }
            paths.into_iter().map(Selector::followed).collect()
        }),
    }
}

/// Content may decide where nothing can be written that a later step sees, or where all of the
/// input is shown: otherwise a hit could lack files of the input that were never looked at.
fn counts_by_content(mount: &pb::Mount, path: &str) -> Result<bool, KeyError> {
    let safe = mount.output == pb::SKIP_OUTPUT || mount.readonly || path == "/";
    let mode = MountContentCache::try_from(mount.content_cache);
    let mode = mode.map_err(|_| KeyError::UnknownContentCache {
        destination: mount.dest.clone(),
        mode: mount.content_cache,
    })?;
    Ok(match mode {
        MountContentCache::Off => false,
        MountContentCache::On if !safe => {
            return Err(KeyError::MountContentCache {
                destination: mount.dest.clone(),
            });
        }
        MountContentCache::On => true,
        // A checksum of a whole root file system costs much and rarely finds anything.
        MountContentCache::Default => safe && mount.dest != pb::ROOT_MOUNT,
    })
}

/// The path in normal form with a leading slash.
fn absolute(path: &str) -> String {
    let clean = TreePath::clean(path.as_bytes()).unwrap_or_default();
    format!("/{}", String::from_utf8_lossy(clean.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(input: i64, selector: &str, destination: &str, output: i64) -> pb::Mount {
        pb::Mount {
            input,
            selector: selector.into(),
            dest: destination.into(),
            output,
            ..pb::Mount::default()
        }
    }

    fn op(mounts: Vec<pb::Mount>) -> pb::ExecOp {
        pb::ExecOp {
            meta: Some(pb::Meta::default()),
            mounts,
            ..pb::ExecOp::default()
        }
    }

    #[test]
    fn content_counts_only_where_it_is_safe() {
        let root = mount(0, "", "/", 0);
        let read = mount(1, "a/../b", "/b", -1);
        let plans = inputs(&op(vec![root.clone(), read]), 2).unwrap();
        assert_eq!(plans[0].content, None);
        assert_eq!(plans[0].selector, Some(digest_joined(["/"])));
        assert_eq!(plans[1].content, Some(vec![Selector::followed("/b")]));
        let mut part = mount(1, "b", "/b", 1);
        assert_eq!(
            inputs(&op(vec![root.clone(), part.clone()]), 2).unwrap()[1].content,
            None
        );
        part.content_cache = MountContentCache::On as i32;
        assert!(matches!(
            inputs(&op(vec![root, part.clone()]), 2),
            Err(KeyError::MountContentCache { .. })
        ));
        assert!(matches!(
            inputs(&op(vec![part]), 1),
            Err(KeyError::MountInput { .. })
        ));
    }

    #[test]
    fn names_of_cache_mounts_do_not_count_unless_default() {
        let mut cache = mount(-1, "", "/root/.cache", -1);
        cache.mount_type = MountType::Cache as i32;
        let platform = pb::Platform::default();
        let mut text = |id: &str, sharing| {
            cache.cache_opt = Some(pb::CacheOpt {
                id: id.into(),
                sharing,
            });
            preimage(&op(vec![mount(0, "", "/", 0), cache.clone()]), &platform)
        };
        assert!(text("/root/.cache", 0).contains(r#""cacheOpt":{"ID":"/root/.cache"}"#));
        assert!(text("ns//root/.cache", 0).contains(r#""cacheOpt":{"ID":"ns//root/.cache"}"#));
        assert!(text("other", 0).contains(r#""cacheOpt":{}"#));
        assert!(text("/root/.cache", 2).contains(r#""cacheOpt":{}"#));
    }
}
