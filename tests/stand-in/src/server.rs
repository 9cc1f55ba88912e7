//! The server.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method, target, version.
    pub line: String,
    /// What it carries.
    pub body: String,
    headers: Vec<(String, String)>,
    /// How many requests for secrets came before it with a token.
    earlier: usize,
}

impl Request {
    /// A header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// For a request for a secret with a token, how many came before it.
    #[must_use]
    pub fn secret(&self) -> Option<usize> {
        (self.line.contains(" /secrets/") && self.header("authorization").is_some()).then_some(self.earlier)
    }
}

/// What the stand-in says.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    /// A status with JSON.
    #[must_use]
    pub fn status(status: u16, body: &str) -> Self {
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Self { status, headers, body: body.to_owned() }
    }

    /// The same with another header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A token of a managed identity.
    #[must_use]
    pub fn token() -> Self {
        let body = r#"{"access_token":"a-token","expires_on":"4102444800","token_type":"Bearer","resource":"r"}"#;
        Self::status(200, body)
    }

    /// A secret of a key vault.
    #[must_use]
    pub fn secret(value: &str) -> Self {
        let body = serde_json::json!({"value": value, "id": "i", "attributes": {"enabled": true}});
        Self::status(200, &body.to_string())
    }

    /// What a key vault says to who comes without a token.
    #[must_use]
    pub fn challenge() -> Self {
        let challenge =
            r#"Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net""#;
        Self::status(401, "{}").with("WWW-Authenticate", challenge)
    }

    /// The connection stays open and nothing comes.
    #[must_use]
    pub fn silence() -> Self {
        Self::status(0, "")
    }
}

type Script = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// See the crate.
pub struct StandIn {
    proxy: String,
    ca: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl StandIn {
    /// Starts it for TLS under the names `hosts`; `script` answers all but the vault's challenge to a request without a token.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(hosts: &[&str], script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap().der().clone();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let (tls, script): (_, Script) = (Arc::new(tls), Arc::new(script));
        let requests = Arc::new(Mutex::new(vec![]));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for socket in listener.incoming() {
                let (tls, script, seen) = (Arc::clone(&tls), Arc::clone(&script), Arc::clone(&seen));
                thread::spawn(move || {
                    let _ = serve(socket.unwrap(), tls, &script, &seen); // a client that left has what it wanted
                });
            }
        });
        Self { proxy, ca: ca.pem(), requests }
    }

    /// Its address, `http://127.0.0.1:...`: a proxy, and a plain server.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.proxy
    }

    /// The authority that signed its certificate, as PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// All that was asked.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(
    mut socket: TcpStream,
    tls: Arc<ServerConfig>,
    script: &Script,
    seen: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let Some(request) = read(&mut reader, seen)? else { return Ok(()) };
    if !request.line.starts_with("CONNECT ") {
        let answer = reply(&request, script, seen);
        write(&mut socket, answer)?;
        while let Some(request) = read(&mut reader, seen)? {
            let answer = reply(&request, script, seen);
            write(&mut socket, answer)?;
        }
        return Ok(());
    }
    socket.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let mut stream = StreamOwned::new(ServerConnection::new(tls).unwrap(), socket);
    while let Some(request) = read(&mut BufReader::with_capacity(1, &mut stream), seen)? {
        let answer = reply(&request, script, seen);
        write(&mut stream, answer)?;
    }
    Ok(())
}

fn reply(request: &Request, script: &Script, seen: &Mutex<Vec<Request>>) -> Answer {
    seen.lock().unwrap().push(request.clone());
    if request.line.contains(" /secrets/") && request.header("authorization").is_none() {
        Answer::challenge()
    } else {
        script(request)
    }
}

fn read(reader: &mut impl BufRead, seen: &Mutex<Vec<Request>>) -> std::io::Result<Option<Request>> {
    let mut lines = vec![];
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: Vec<_> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let earlier = seen.lock().unwrap().iter().filter(|request| request.secret().is_some()).count();
    Ok(Some(Request { line: lines[0].clone(), body, headers, earlier }))
}

fn write(stream: &mut impl Write, answer: Answer) -> std::io::Result<()> {
    let Answer { status, headers, body } = answer;
    if status == 0 {
        loop {
            thread::park();
        }
    }
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())?;
    stream.flush()
}
