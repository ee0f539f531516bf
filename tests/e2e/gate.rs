//! A gate before a registry, on the level of requests: it may hold them up, cut them off, and
//! writes down what was answered to them. It changes nothing.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use super::registries::request_head;

/// The head of a request.
#[derive(Debug, Clone)]
pub struct Head(String);

impl Head {
    /// Whether it is such a request, with this in its path.
    pub fn is(&self, method: &str, part: &str) -> bool {
        let mut words = self.0.split(' ');
        words.next() == Some(method) && words.next().is_some_and(|path| path.contains(part))
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.0.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    }

    /// Where in a blob the chunk begins that is sent with it.
    pub fn chunk_from(&self) -> Option<u64> {
        self.header("content-range")?
            .split_once('-')?
            .0
            .parse()
            .ok()
    }
}

/// What becomes of a request.
pub enum Passage {
    /// It is passed on.
    Through,
    /// So many bytes of its body are passed on, then this happens, and the connection ends.
    Part(u64, Box<dyn FnOnce() + Send>),
}

type Keeper = dyn Fn(&Head) -> Passage + Send + Sync;

/// A gate; open until the process ends.
#[derive(Clone)]
pub struct Gate {
    port: u16,
    behind: Arc<AtomicU16>,
    answers: Arc<Mutex<Vec<(Head, u16)>>>,
}

impl Gate {
    /// Opens it before a port. The keeper is asked about each request, which waits meanwhile.
    pub fn open(behind: u16, keeper: impl Fn(&Head) -> Passage + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Self {
            port: listener.local_addr().unwrap().port(),
            behind: Arc::new(AtomicU16::new(behind)),
            answers: Arc::default(),
        };
        let (own, keeper): (_, Arc<Keeper>) = (gate.clone(), Arc::new(keeper));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let (own, keeper) = (own.clone(), keeper.clone());
                std::thread::spawn(move || {
                    // Whoever went away is told by the end of the connection.
                    let _end = own.pass(&client, &*keeper);
                    let _gone = client.shutdown(Shutdown::Both);
                });
            }
        });
        gate
    }

    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// What is behind it from now on.
    pub fn lead_to(&self, port: u16) {
        self.behind.store(port, Ordering::SeqCst);
    }

    /// The requests that were answered so.
    pub fn answered(&self, status: u16) -> Vec<Head> {
        let answers = self.answers.lock().unwrap();
        let found = answers.iter().filter(|(_, found)| *found == status);
        found.map(|(head, _)| head.clone()).collect()
    }

    /// Passes the requests of a connection on, until it ends.
    fn pass(&self, client: &TcpStream, keeper: &Keeper) -> io::Result<()> {
        let mut behind: Option<(TcpStream, Arc<Mutex<Option<Head>>>)> = None;
        loop {
            let head = Head(request_head(client));
            if head.0.is_empty() {
                return Ok(());
            }
            let passage = keeper(&head);
            if behind.is_none() {
                let port = self.behind.load(Ordering::SeqCst);
                let server = TcpStream::connect(("127.0.0.1", port))?;
                let asked = Arc::default();
                self.answer(&server, client, &asked)?;
                behind = Some((server, asked));
            }
            let Some((server, asked)) = &mut behind else {
                continue;
            };
            let length = head
                .header("content-length")
                .map_or(0, |text| text.parse().unwrap());
            *asked.lock().unwrap() = Some(head.clone());
            server.write_all(head.0.as_bytes())?;
            let passed = match passage {
                Passage::Through => io::copy(&mut client.take(length), server)?,
                Passage::Part(part, then) => {
                    let copied = io::copy(&mut client.take(length.min(part)), server);
                    then();
                    return copied.map(drop);
                }
            };
            if passed < length {
                return Ok(());
            }
        }
    }

    /// Passes the answers of a connection on, in a thread of their own.
    fn answer(
        &self,
        server: &TcpStream,
        client: &TcpStream,
        asked: &Arc<Mutex<Option<Head>>>,
    ) -> io::Result<()> {
        let (mut server, mut client) = (server.try_clone()?, client.try_clone()?);
        let (answers, asked) = (self.answers.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length) = server.read(&mut buffer) {
                if length == 0 {
                    break;
                }
                if let Some(head) = asked.lock().unwrap().take() {
                    // `HTTP/1.1 200 OK`.
                    let status = std::str::from_utf8(&buffer[9..12]).unwrap().parse();
                    answers.lock().unwrap().push((head, status.unwrap()));
                }
                if client.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _gone = client.shutdown(Shutdown::Both);
        });
        Ok(())
    }
}
