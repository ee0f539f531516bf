//! The command line.

use std::error::Error;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use ashlar_exporters::attest::Attest;
use ashlar_solver::ops::Entitlements;

pub const HELP: &str = "\
solve: solves a definition read from standard input

  --local NAME=DIR         lends a directory to the build
  --oci-layout NAME=DIR    lends an OCI image layout to the build
  --output, -o OUTPUT      type=oci|docker|tar[,dest=FILE][,…], type=local,dest=DIR[,…],
                           type=image|registry,name=NAME[,…], type=cacheonly; may be given several times
  --secret SECRET          id=NAME[,src=FILE][,env=VARIABLE], lends a secret
  --ssh AGENT              default|ID[=SOCKET[,raw=true]], lends an ssh agent
  --opt attest:TYPE=…      attest:provenance=[mode=min|max][,version=v1|v0.2]…, attest:sbom=[files=false]
  --attest ATTESTATION     type=provenance[,mode=min]… or type=sbom, as above
  --allow ENTITLEMENT      network.host, security.insecure, device[=NAME[,alias=OTHER]]
  --progress MODE          auto, plain, tty, rawjson or none (default: auto)
  --metadata-file FILE     writes what the exporters answer as JSON
  --no-cache               runs every step
  --root DIR               keeps the state there (default: ~/.cache/ashlar)
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Plain,
    Tty,
    RawJson,
    None,
}

impl Mode {
    /// Live lines where there is somebody to look at them.
    fn auto() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Tty
        } else {
            Self::Plain
        }
    }
}

#[derive(Debug)]
pub struct Flags {
    pub locals: Vec<(String, PathBuf)>,
    pub oci_layouts: Vec<(String, PathBuf)>,
    pub outputs: Vec<String>,
    pub secrets: Vec<String>,
    pub agents: Vec<String>,
    pub attest: Attest,
    pub entitlements: Entitlements,
    pub progress: Mode,
    pub metadata_file: Option<PathBuf>,
    pub no_cache: bool,
    pub root: PathBuf,
}

impl Flags {
    /// Reads the arguments; nothing if help was asked for.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, Box<dyn Error>> {
        let mut flags = Self {
            locals: Vec::new(),
            oci_layouts: Vec::new(),
            outputs: Vec::new(),
            secrets: Vec::new(),
            agents: Vec::new(),
            attest: Attest::new(),
            entitlements: Entitlements::default(),
            progress: Mode::auto(),
            metadata_file: None,
            no_cache: false,
            root: std::env::home_dir()
                .unwrap_or_default()
                .join(".cache/ashlar"),
        };
        let mut rest = arguments;
        while let Some(argument) = rest.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = || {
                inline
                    .clone()
                    .or_else(|| rest.next())
                    .ok_or_else(|| format!("flag needs an argument: {name}"))
            };
            match name.as_str() {
                "--local" => flags.locals.push(pair(&name, &value()?)?),
                "--oci-layout" => flags.oci_layouts.push(pair(&name, &value()?)?),
                "--output" | "-o" => flags.outputs.push(value()?),
                "--secret" => flags.secrets.push(value()?),
                "--ssh" => flags.agents.push(value()?),
                "--opt" => {
                    let text = value()?;
                    let (key, option) = text.split_once('=').unwrap_or((&text, ""));
                    if !key.starts_with("attest:") {
                        return Err(
                            format!("there is no frontend that takes the option {key}").into()
                        );
                    }
                    flags.attest = flags.attest.option(key, option)?;
                }
                "--attest" => flags.attest = flags.attest.parse(&value()?)?,
                "--allow" => flags.entitlements = flags.entitlements.allow(&value()?)?,
                "--progress" => flags.progress = mode(&value()?)?,
                "--metadata-file" => flags.metadata_file = Some(value()?.into()),
                "--no-cache" => flags.no_cache = inline.as_deref() != Some("false"),
                "--root" => flags.root = value()?.into(),
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("flag provided but not defined: {name}").into()),
            }
        }
        Ok(Some(flags))
    }
}

fn pair(flag: &str, text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text
        .split_once('=')
        .ok_or_else(|| format!("invalid value '{text}' for {flag}"))?;
    Ok((name.to_owned(), path.into()))
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "auto" => Ok(Mode::auto()),
        "plain" => Ok(Mode::Plain),
        "tty" => Ok(Mode::Tty),
        "rawjson" => Ok(Mode::RawJson),
        "none" | "quiet" => Ok(Mode::None),
        _ => Err(format!("invalid progress mode {text}")),
    }
}
