//! The client side of HTTP/2, as far as gRPC over one connection needs it.
//!
//! Many clients share two cores with the server that is measured, so a client
//! must cost much less than the server. This one keeps no buffers, decodes no
//! headers and hands out the bytes of bodies where the socket put them. Its
//! windows are those of hyper's client, which ztunnel uses.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::X509;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;
/// What both windows are before anything is said.
const INITIAL_WINDOW: u32 = 65_535;
/// The largest frame that everybody accepts.
const MAX_FRAME: usize = 16_384;
/// The number of the setting for the window of new streams.
const SETTING_WINDOW: u16 = 4;

mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}
/// Of DATA and HEADERS.
const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Where a server is and how it is spoken to.
#[derive(Clone)]
pub struct Target {
    /// The port on loopback.
    pub port: u16,
    /// TLS, if it is wanted, and the name that is asked for.
    pub tls: Option<(Arc<SslConnector>, &'static str)>,
}

impl Target {
    /// A server without TLS.
    pub fn plain(port: u16) -> Self {
        Self { port, tls: None }
    }

    /// A server whose certificate must come from this root and have a name.
    pub fn tls(port: u16, root: &[u8], name: &'static str) -> anyhow::Result<Self> {
        let mut builder = SslConnector::builder(SslMethod::tls_client())?;
        for root in X509::stack_from_pem(root)? {
            builder.cert_store_mut().add_cert(root)?;
        }
        builder.set_verify(SslVerifyMode::PEER);
        builder.set_alpn_protos(b"\x02h2")?;
        Ok(Self { port, tls: Some((Arc::new(builder.build()), name)) })
    }
}

/// A plaintext or an encrypted byte stream.
enum Socket {
    Plain(TcpStream),
    Tls(SslStream<TcpStream>),
}

/// Who hears what a connection receives.
pub trait Receiver {
    /// Bytes of a body. What is appended to `reply` is sent on the same stream.
    fn data(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> anyhow::Result<()>;
    /// The server ended the stream; these are the last headers, still encoded.
    fn ended(&mut self, headers: &[u8]) -> anyhow::Result<()>;
}

/// One connection, on which one stream at a time is open.
pub struct Connection {
    socket: Socket,
    secure: bool,
    /// The current stream.
    stream: u32,
    outgoing: Vec<u8>,
    reply: Vec<u8>,
    frame: Frame,
    /// Bytes received and not yet given back to the windows.
    owed: [u32; 2],
    /// Bytes of the request that the windows of the server had no room for.
    waiting: Vec<u8>,
    /// How many of them are sent.
    sent: usize,
    /// Whether nothing follows them.
    end: bool,
    /// Bytes that are taken from the socket at a time, for clients that are
    /// slow on purpose.
    pub read_at_most: usize,
    /// What the server's windows still allow: the stream's and the
    /// connection's.
    room: [i64; 2],
    /// The window that the server gives to new streams.
    stream_window: i64,
    headers: Vec<u8>,
}

/// How far the frame that is being received has come.
#[derive(Default)]
struct Frame {
    head: [u8; 9],
    head_len: usize,
    /// Payload still to come.
    left: usize,
    /// The payload of frames other than DATA.
    payload: Vec<u8>,
}

thread_local! {
    /// One for all connections, so that it stays in the cache.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 128 << 10]);
}

impl Connection {
    /// Connects and sends the preface.
    pub async fn open(target: &Target) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(("127.0.0.1", target.port)).await.context("cannot connect")?;
        tcp.set_nodelay(true)?;
        let socket = match &target.tls {
            None => Socket::Plain(tcp),
            Some((connector, name)) => {
                let mut stream = SslStream::new(connector.configure()?.into_ssl(name)?, tcp)?;
                Pin::new(&mut stream).connect().await.context("TLS handshake failed")?;
                Socket::Tls(stream)
            }
        };
        let mut outgoing = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut settings = Vec::new();
        for (setting, value) in [(2_u16, 0), (4, STREAM_WINDOW)] {
            settings.extend(setting.to_be_bytes());
            settings.extend(u32::to_be_bytes(value));
        }
        frame(&mut outgoing, kind::SETTINGS, 0, 0, &settings);
        let more = (CONNECTION_WINDOW - INITIAL_WINDOW).to_be_bytes();
        frame(&mut outgoing, kind::WINDOW_UPDATE, 0, 0, &more);
        Ok(Self {
            socket,
            secure: target.tls.is_some(),
            // The first stream is number 1.
            stream: u32::MAX,
            outgoing,
            reply: Vec::new(),
            frame: Frame::default(),
            owed: [0; 2],
            waiting: Vec::new(),
            sent: 0,
            read_at_most: usize::MAX,
            end: false,
            room: [INITIAL_WINDOW.into(); 2],
            stream_window: INITIAL_WINDOW.into(),
            headers: Vec::new(),
        })
    }

    /// Begins a call with its first bytes, perhaps also its last.
    pub fn call(&mut self, path: &str, token: Option<&str>, body: &[u8], end: bool) {
        self.stream = self.stream.wrapping_add(2);
        let mut headers = vec![0x83, if self.secure { 0x87 } else { 0x86 }];
        // Literals without indexing; the numbers are those of the static table.
        literal(&mut headers, &[0x04], path);
        literal(&mut headers, &[0x01], "localhost");
        literal(&mut headers, &[0x0f, 0x10], "application/grpc");
        headers.extend(b"\x00\x02te");
        literal(&mut headers, &[], "trailers");
        if let Some(token) = token {
            literal(&mut headers, &[0x0f, 0x08], &format!("Bearer {token}"));
            headers.extend(b"\x00\x09clusterid");
            literal(&mut headers, &[], "Kubernetes");
        }
        frame(&mut self.outgoing, kind::HEADERS, END_HEADERS, self.stream, &headers);
        self.room[0] = self.stream_window;
        self.end = end;
        (self.sent, self.waiting) = (0, Vec::new());
        self.waiting.extend_from_slice(body);
        self.send_waiting();
    }

    /// Sends as much of the request as the server has room for.
    fn send_waiting(&mut self) {
        while self.sent < self.waiting.len() {
            let room = self.room[0].min(self.room[1]).clamp(0, MAX_FRAME as i64) as usize;
            let part = &self.waiting[self.sent..self.waiting.len().min(self.sent + room)];
            if part.is_empty() {
                return;
            }
            self.sent += part.len();
            let last = self.end && self.sent == self.waiting.len();
            frame(&mut self.outgoing, kind::DATA, if last { END_STREAM } else { 0 }, self.stream, part);
            self.room = self.room.map(|room| room - part.len() as i64);
        }
        // A request may have been large.
        self.waiting.clear();
        self.waiting.shrink_to(MAX_FRAME);
        self.sent = 0;
    }

    /// What the server changes about its windows.
    fn settings(&mut self) {
        for setting in self.frame.payload.chunks_exact(6) {
            let (number, value) = (u16::from_be_bytes([setting[0], setting[1]]), &setting[2..]);
            if number == SETTING_WINDOW {
                let window = i64::from(u32::from_be_bytes([value[0], value[1], value[2], value[3]]));
                self.room[0] += window - self.stream_window;
                self.stream_window = window;
            }
        }
        frame(&mut self.outgoing, kind::SETTINGS, ACK, 0, &[]);
        self.send_waiting();
    }

    fn window_update(&mut self) {
        let [.., a, b, c, d] = self.frame.payload[..] else { return };
        let more = i64::from(u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff);
        let [.., e, f, g, h] = self.frame.head;
        match u32::from_be_bytes([e, f, g, h]) & 0x7fff_ffff {
            0 => self.room[1] += more,
            stream if stream == self.stream => self.room[0] += more,
            _ => {}
        }
        self.send_waiting();
    }

    /// Sends what there is to send, and then whatever arrives next to the
    /// receiver.
    pub async fn exchange(&mut self, receiver: &mut impl Receiver) -> anyhow::Result<()> {
        self.flush().await?;
        let Self { socket, read_at_most, .. } = self;
        let most = (*read_at_most).min(128 << 10);
        // The buffer is taken while nothing else can run, and only then.
        let (buffer, read) = std::future::poll_fn(|cx| {
            let mut buffer = BUFFER.take();
            buffer.resize(128 << 10, 0);
            let mut free = ReadBuf::new(&mut buffer[..most]);
            let polled = match socket {
                Socket::Plain(socket) => Pin::new(socket).poll_read(cx, &mut free),
                Socket::Tls(socket) => Pin::new(socket).poll_read(cx, &mut free),
            };
            let read = free.filled().len();
            match polled {
                std::task::Poll::Pending => {
                    BUFFER.set(buffer);
                    std::task::Poll::Pending
                }
                std::task::Poll::Ready(result) => std::task::Poll::Ready(result.map(|()| (buffer, read))),
            }
        })
        .await
        .context("cannot read")?;
        let result =
            if read == 0 { Err(anyhow::anyhow!("connection closed")) } else { self.take(&buffer[..read], receiver) };
        BUFFER.set(buffer);
        result?;
        self.flush().await
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let written = match &mut self.socket {
            Socket::Plain(socket) => socket.write_all(&self.outgoing).await,
            Socket::Tls(socket) => socket.write_all(&self.outgoing).await,
        };
        self.outgoing.clear();
        written.context("cannot write")
    }

    fn take(&mut self, mut bytes: &[u8], receiver: &mut impl Receiver) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            if self.frame.head_len < 9 {
                let taken = bytes.len().min(9 - self.frame.head_len);
                self.frame.head[self.frame.head_len..][..taken].copy_from_slice(&bytes[..taken]);
                self.frame.head_len += taken;
                bytes = &bytes[taken..];
                if self.frame.head_len < 9 {
                    break;
                }
                let [a, b, c, ..] = self.frame.head;
                self.frame.left = u32::from_be_bytes([0, a, b, c]) as usize;
                self.frame.payload.clear();
            }
            let taken = bytes.len().min(self.frame.left);
            let (part, rest) = bytes.split_at(taken);
            (bytes, self.frame.left) = (rest, self.frame.left - taken);
            if self.frame.head[3] != kind::DATA {
                self.frame.payload.extend_from_slice(part);
            } else if taken > 0 {
                ensure!(self.frame.head[4] & PADDED == 0, "padding is not understood");
                receiver.data(part, &mut self.reply)?;
                self.give_back(taken as u32);
            }
            if self.frame.left == 0 {
                self.frame.head_len = 0;
                self.complete(receiver)?;
            }
        }
        if !self.reply.is_empty() {
            self.waiting.append(&mut self.reply);
            self.send_waiting();
        }
        Ok(())
    }

    /// Opens the windows again when half of one is used up.
    fn give_back(&mut self, taken: u32) {
        for (at, (stream, window)) in [(self.stream, STREAM_WINDOW), (0, CONNECTION_WINDOW)].into_iter().enumerate() {
            self.owed[at] += taken;
            if self.owed[at] >= window / 2 {
                frame(&mut self.outgoing, kind::WINDOW_UPDATE, 0, stream, &self.owed[at].to_be_bytes());
                self.owed[at] = 0;
            }
        }
    }

    fn complete(&mut self, receiver: &mut impl Receiver) -> anyhow::Result<()> {
        let (kind, flags) = (self.frame.head[3], self.frame.head[4]);
        let payload = &self.frame.payload;
        match kind {
            kind::SETTINGS if flags & ACK == 0 => self.settings(),
            kind::WINDOW_UPDATE => self.window_update(),
            kind::PING if flags & ACK == 0 => frame(&mut self.outgoing, kind::PING, ACK, 0, payload),
            kind::GOAWAY => bail!("GOAWAY {:?}", String::from_utf8_lossy(payload)),
            kind::RST_STREAM => bail!("stream reset, code {payload:?}"),
            kind::HEADERS | kind::CONTINUATION => {
                self.headers.clone_from(payload);
            }
            _ => {}
        }
        if matches!(kind, kind::DATA | kind::HEADERS) && flags & END_STREAM != 0 {
            self.owed[0] = 0;
            (self.sent, self.waiting) = (0, Vec::new());
            receiver.ended(&self.headers)?;
        }
        Ok(())
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A header field that is not to be remembered.
fn literal(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    // A length in a prefix of seven bits.
    match value.len().checked_sub(127) {
        None => out.push(value.len() as u8),
        Some(mut rest) => {
            out.push(127);
            while rest >= 128 {
                out.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            out.push(rest as u8);
        }
    }
    out.extend_from_slice(value.as_bytes());
}

/// A gRPC message with its prefix.
pub fn grpc(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}
