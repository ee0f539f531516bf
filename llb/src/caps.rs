//! Capabilities: what an engine has to be able to do to run an op.
//!
//! Owns the names of those that ops need by themselves, and sets of them. Invariant: the names
//! are sorted, so that sets are walked in the order in which they are written. Names that
//! callers add are kept as texts, with the other options of an op.

macro_rules! caps {
    ($($cap:ident = $name:literal,)*) => {
        /// A capability that is known here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Cap {
            $($cap,)*
        }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

caps! {
    Constraints = "constraints",
    DiffOp = "diffop",
    ExecMetaBase = "exec.meta.base",
    ExecMetaCdi = "exec.meta.cdi",
    ExecMetaLinuxResources = "exec.meta.linux.resources",
    ExecMetaNetwork = "exec.meta.network",
    ExecMetaProxyenv = "exec.meta.proxyenv",
    ExecMetaSecurity = "exec.meta.security",
    ExecMetaSetsdefaultpath = "exec.meta.setsdefaultpath",
    ExecMetaUlimit = "exec.meta.ulimit",
    ExecMountBind = "exec.mount.bind",
    ExecMountCache = "exec.mount.cache",
    ExecMountCacheContent = "exec.mount.cache.content",
    ExecMountCacheSharing = "exec.mount.cache.sharing",
    ExecMountSecret = "exec.mount.secret",
    ExecMountSelector = "exec.mount.selector",
    ExecMountSsh = "exec.mount.ssh",
    ExecMountTmpfs = "exec.mount.tmpfs",
    ExecMountTmpfsSize = "exec.mount.tmpfs.size",
    ExecSecretenv = "exec.secretenv",
    ExecValidexitcode = "exec.validexitcode",
    FileBase = "file.base",
    MergeOp = "mergeop",
    MetaDescription = "meta.description",
    MetaExportcache = "meta.exportcache",
    MetaIgnorecache = "meta.ignorecache",
    PassthroughOp = "passthroughop",
    Platform = "platform",
    SourceHttpUidgid = "soruce.http.uidgid",
    SourceBuildopLlbfilename = "source.buildop.llbfilename",
    SourceGit = "source.git",
    SourceGitBundle = "source.git.bundle",
    SourceGitCheckoutbundle = "source.git.checkoutbundle",
    SourceGitChecksum = "source.git.checksum",
    SourceGitFetchbycommit = "source.git.fetchbycommit",
    SourceGitFullurl = "source.git.fullurl",
    SourceGitHttpauth = "source.git.httpauth",
    SourceGitKeepgitdir = "source.git.keepgitdir",
    SourceGitKnownsshhosts = "source.git.knownsshhosts",
    SourceGitMountsshsock = "source.git.mountsshsock",
    SourceGitMtime = "source.git.mtime",
    SourceGitSkipsubmodules = "source.git.skipsubmodules",
    SourceHttp = "source.http",
    SourceHttpAuth = "source.http.auth",
    SourceHttpChecksum = "source.http.checksum",
    SourceHttpHeader = "source.http.header",
    SourceHttpPerm = "source.http.perm",
    SourceHttpSignatureverify = "source.http.signatureverify",
    SourceImage = "source.image",
    SourceImageChecksum = "source.image.checksum",
    SourceImageLayerlimit = "source.image.layerlimit",
    SourceImageResolvemode = "source.image.resolvemode",
    SourceImageblob = "source.imageblob",
    SourceLocal = "source.local",
    SourceLocalDiffer = "source.local.differ",
    SourceLocalExcludepatterns = "source.local.excludepatterns",
    SourceLocalFollowpaths = "source.local.followpaths",
    SourceLocalIncludepatterns = "source.local.includepatterns",
    SourceLocalMetadatatransfer = "source.local.metadatatransfer",
    SourceLocalSessionid = "source.local.sessionid",
    SourceLocalSharedkeyhint = "source.local.sharedkeyhint",
    SourceLocalUnique = "source.local.unique",
    SourceOcilayout = "source.ocilayout",
}

impl Cap {
    /// Which bit of which number stands for it.
    fn bit(self) -> (usize, u64) {
        let number = self as usize;
        (number / 64, 1 << (number % 64))
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caps([u64; NAMES.len().div_ceil(64)]);

impl Caps {
    pub(crate) fn insert(&mut self, cap: Cap) {
        let (number, bit) = cap.bit();
        self.0[number] |= bit;
    }

    pub(crate) fn remove(&mut self, cap: Cap) {
        let (number, bit) = cap.bit();
        self.0[number] &= !bit;
    }

    /// The names, sorted.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        self.0
            .into_iter()
            .enumerate()
            .flat_map(|(number, mut bits)| {
                std::iter::from_fn(move || {
                    let lowest = bits.trailing_zeros() as usize;
                    bits &= bits.checked_sub(1)?;
                    Some(NAMES[number * 64 + lowest])
                })
            })
    }
}

impl FromIterator<Cap> for Caps {
    fn from_iter<I: IntoIterator<Item = Cap>>(caps: I) -> Self {
        let mut set = Self::default();
        caps.into_iter().for_each(|cap| set.insert(cap));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::{Cap, Caps, NAMES};

    #[test]
    fn names_are_sorted_and_so_are_sets() {
        assert!(NAMES.is_sorted_by(|a, b| a < b));
        let mut set: Caps = [Cap::SourceLocal, Cap::Constraints, Cap::ExecMetaBase]
            .into_iter()
            .collect();
        set.insert(Cap::Constraints);
        let names: Vec<_> = set.names().collect();
        assert_eq!(names, ["constraints", "exec.meta.base", "source.local"]);
        set.remove(Cap::Constraints);
        set.remove(Cap::Platform);
        let names: Vec<_> = set.names().collect();
        assert_eq!(names, ["exec.meta.base", "source.local"]);
        assert_eq!(Caps::default().names().count(), 0);
    }
}
