//! Files that are downloaded.
//!
//! Owns the builder of `http://` and `https://` sources.

use crate::caps::Cap;
use crate::source::{source_builder, source_state};
use crate::{Checksum, Mode, SecretId, State};

/// A downloaded file; a [`State`] with that one file, whose source op still takes options.
#[derive(Clone, Debug)]
pub struct Http {
    state: State,
}

/// Starts from a file that is downloaded from `url`.
///
/// ```
/// use ashlar_llb as llb;
///
/// let tool = llb::http("https://example.com/tool").filename("tool").mode(0o755);
/// let image = llb::image("alpine").file(llb::copy(&tool, "/tool", "/usr/bin/tool"));
/// # let _ = image;
/// ```
#[must_use]
pub fn http(url: impl Into<String>) -> Http {
    Http {
        state: source_state(url.into(), Some(Cap::SourceHttp)),
    }
}

source_builder!(Http);

impl Http {
    /// Demands that the file has this digest.
    #[must_use]
    pub fn checksum(self, digest: impl Into<Checksum>) -> Self {
        let cap = Some(Cap::SourceHttpChecksum);
        self.attr("http.checksum", digest.into().to_string(), cap)
    }

    /// Names the file; the server or the URL names it by default.
    #[must_use]
    pub fn filename(self, name: impl Into<String>) -> Self {
        self.text("http.filename", name, None)
    }

    /// Sets the permission bits of the file. The marshal fails with other bits, which BuildKit
    /// would drop. 0600 by default.
    #[must_use]
    pub fn mode(mut self, mode: impl Into<Mode>) -> Self {
        let mode = mode.into();
        self.source_mut().check_mode(mode);
        self.text("http.perm", permissions(mode), Some(Cap::SourceHttpPerm))
    }

    /// Sets the owner of the file. Zeros, the default, are not written.
    #[must_use]
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        let mut http = self
            .text("http.uid", id(uid), None)
            .text("http.gid", id(gid), None);
        if uid != 0 || gid != 0 {
            // The capability's name is misspelt in the protocol.
            http.options_mut().need(Cap::SourceHttpUidgid);
        } else {
            http.options_mut().need_not(Cap::SourceHttpUidgid);
        }
        http
    }

    /// Names the secret that is sent as the `Authorization` header.
    #[must_use]
    pub fn auth_header_secret(self, secret: impl Into<SecretId>) -> Self {
        self.text(
            "http.authheadersecret",
            secret.into(),
            Some(Cap::SourceHttpAuth),
        )
    }

    /// Sends this `Accept` header.
    #[must_use]
    pub fn accept(self, value: impl Into<String>) -> Self {
        self.header("http.header.accept", value.into())
    }

    /// Sends this `User-Agent` header.
    #[must_use]
    pub fn user_agent(self, value: impl Into<String>) -> Self {
        self.header("http.header.user-agent", value.into())
    }

    fn header(self, key: &str, value: String) -> Self {
        let mut http = self.text(key, value, None);
        http.options_mut().need(Cap::SourceHttpHeader);
        http
    }

    /// Demands that `signature`, an armored detached OpenPGP signature, is by the armored
    /// public key `key`. Empty texts are left to the engine to refuse.
    #[must_use]
    pub fn pgp_signature(self, key: impl Into<String>, signature: impl Into<String>) -> Self {
        let mut http = self;
        http.options_mut().need(Cap::SourceHttpSignatureverify);
        let parts = [
            ("http.sig.pubkey", key.into()),
            ("http.sig.signature", signature.into()),
        ];
        for (key, value) in parts {
            http = http.text(key, value, None);
        }
        http
    }
}

/// Permission bits as attributes hold them; nothing if there are none.
pub(super) fn permissions(mode: Mode) -> String {
    match mode.bits() {
        0 => String::new(),
        bits => format!("0{bits:o}"),
    }
}

/// A user or group as attributes hold it; root is left out.
pub(super) fn id(id: u32) -> String {
    if id == 0 {
        String::new()
    } else {
        id.to_string()
    }
}
