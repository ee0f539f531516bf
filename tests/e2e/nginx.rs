//! nginx before a registry, with a configuration of the test's own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::support::tool;

/// A running nginx; killed when dropped.
pub struct Nginx {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Its configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules<'a> {
    /// For all servers.
    pub http: &'a str,
    /// For the server.
    pub server: &'a str,
    /// For all that is passed on; more important than what is set otherwise.
    pub location: &'a str,
    /// What the registry is told to be called: `$http_host` if this is empty.
    pub host: &'a str,
    /// Whether it speaks TLS, and HTTP/2, with `server.pem` of the folder above its own.
    pub tls: bool,
}

impl Nginx {
    /// Passes on to a port, in a folder of its own within `folder`.
    pub fn start(folder: &Path, behind: u16, rules: &Rules<'_>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Free at this moment; nothing else here asks for ports that are told.
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let own = folder.join(format!("nginx-{port}"));
        fs::create_dir(&own).unwrap();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        let Rules {
            http,
            server,
            location,
            host,
            tls,
        } = rules;
        let host = if host.is_empty() { "$http_host" } else { host };
        let (listen, certificate) = match tls {
            true => (
                " ssl http2",
                "ssl_certificate ../server.pem; ssl_certificate_key ../server.key;",
            ),
            false => ("", ""),
        };
        // One process alone, which ends when it is killed.
        let text = format!(
            "daemon off;\nmaster_process off;\npid pid;\nerror_log errors;\nevents {{}}\nhttp {{\n\
             {temporary}log_format short '$request_method $status $uri';\naccess_log requests short;\n\
             {http}\nserver {{\nlisten 127.0.0.1:{port}{listen};\n{certificate}\n{server}\n\
             location / {{\nproxy_pass http://127.0.0.1:{behind};\nproxy_http_version 1.1;\n\
             proxy_set_header Host {host};\nclient_max_body_size 0;\n{location}\n}}\n}}\n}}\n"
        );
        let text = match location.contains("client_max_body_size") {
            true => text.replacen("client_max_body_size 0;\n", "", 1),
            false => text,
        };
        fs::write(own.join("nginx.conf"), text).unwrap();
        let mut prefix = own.clone().into_os_string();
        prefix.push("/");
        let child = Command::new(tool("nginx").expect("nginx is there"))
            .arg("-p")
            .arg(prefix)
            .args(["-e", "errors", "-c"])
            .arg(own.join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(own.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let nginx = Self {
            child,
            port,
            folder: own,
        };
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return nginx;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let errors = fs::read_to_string(nginx.folder.join("stderr")).unwrap();
        panic!("nginx does not start: {errors}");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// How many requests of a method it answered so, as far as it wrote that down by now.
    pub fn answered(&self, method: &str, status: u16) -> usize {
        let text = fs::read_to_string(self.folder.join("requests")).unwrap();
        let found = format!("{method} {status} ");
        text.lines().filter(|line| line.starts_with(&found)).count()
    }

    /// The same for all methods.
    pub fn answers(&self, status: u16) -> usize {
        let methods = ["HEAD", "GET", "POST", "PATCH", "PUT"];
        methods
            .map(|method| self.answered(method, status))
            .into_iter()
            .sum()
    }
}
