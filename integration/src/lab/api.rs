//! A router's HTTP API, called as a program does: for what the command line does not say, and for what is measured.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{host::Host, wait::patience};

/// Longer than the router gives itself for any call.
const DEADLINE: Duration = Duration::from_secs(30);

impl Host {
    /// `POST path` on the router's socket; what it answers, an error with its words if it refuses.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let socket = self.run_dir().join("weft.sock");
        let mut stream = UnixStream::connect(&socket).with_context(|| socket.display().to_string())?;
        stream.set_read_timeout(Some(patience(DEADLINE)))?;
        let body = body.to_string();
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        // In one piece: a body that comes after the answer was made would end the connection by a reset.
        stream.write_all(format!("{head}{body}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{path}: {answer}"))?;
        ensure!(head.starts_with("HTTP/1.1 20"), "{path}: {body}");
        if body.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(body)?) }
    }
}
