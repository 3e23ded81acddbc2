//! A container runtime in small: calls CNI plugins as the specification says, and nothing else.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{host::Host, namespace::Namespace};

/// The name of the plugin for addresses that [`Runtime::new`] makes.
pub const STUB: &str = "lab-ipam";
/// Where Debian has the reference plugins.
pub const REFERENCE: &str = "/usr/lib/cni";

/// A plugin for addresses: the container's number becomes its address. Each verb is written down; a file `fail` lets the next call fail
/// with what it holds, a file `before` is run first.
const STUB_SCRIPT: &str = r#"#!/bin/sh
dir=$(dirname "$0")/state; config=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID" >>"$dir/calls"
if [ -e "$dir/before" ]; then . "$dir/before"; fi
if [ -e "$dir/fail" ]; then cat "$dir/fail"; exit 1; fi
if [ "$CNI_COMMAND" != ADD ]; then exit 0; fi
version=$(echo "$config" | sed -n 's/.*"cniVersion":"\([0-9.]*\)".*/\1/p')
case "$version" in 0.*) v4='"version":"4",' v6='"version":"6",';; *) v4='' v6='';; esac
n=${CNI_CONTAINERID##*-}
echo "{\"cniVersion\":\"$version\",\"ips\":[{$v4\"address\":\"10.32.$((n / 250)).$((n % 250 + 2))/16\",\"gateway\":\"10.32.255.1\"},
{$v6\"address\":\"fd32::1:$n/64\"}],\"routes\":[{\"dst\":\"0.0.0.0/0\"}]}"
"#;

/// A runtime on a host, with plugins of its own.
#[derive(Clone, Debug)]
pub struct Runtime {
    namespace: Namespace,
    bin: PathBuf,
    config: Value,
}

/// A pod: a namespace and what the runtime calls it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// Its namespace.
    pub namespace: Namespace,
}

/// What a plugin answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What it printed.
    pub json: Value,
    /// Whether it succeeded.
    pub success: bool,
    /// How long it took.
    pub took: Duration,
}

impl Answer {
    /// The result; a failure is an error.
    pub fn result(self) -> Result<Value> {
        if !self.success {
            bail!("the plugin failed: {}", self.json);
        }
        Ok(self.json)
    }

    /// The code of a failure, 0 for success.
    pub fn code(&self) -> u64 {
        if self.success { 0 } else { self.json["code"].as_u64().unwrap_or(u64::MAX) }
    }
}

impl Runtime {
    /// A runtime on a host, which installs the plugins first by `weft setup-cni`, and ours for addresses beside.
    pub fn new(host: &Host) -> Result<Self> {
        let (bin, conf) = (host.dir().join("cni-bin"), host.dir().join("cni-conf"));
        let directories = [format!("--cni-bin-dir={}", bin.display()), format!("--conf-dir={}", conf.display())];
        host.weft(&["setup-cni"])?.args(&directories).checked()?;
        fs::create_dir_all(bin.join("state"))?;
        let stub = bin.join(STUB);
        fs::write(&stub, STUB_SCRIPT)?;
        fs::set_permissions(&stub, fs::Permissions::from_mode(0o755))?;
        let config = json!({ "cniVersion": "1.1.0", "name": "lab", "type": "weft-net", "ipam": { "type": STUB },
                             "runDir": host.run_dir(), "dataDir": host.data_dir(), "timeout": 5 });
        Ok(Self { namespace: host.namespace().clone(), bin, config })
    }

    /// The same with other keys in the configuration; null takes one away.
    #[must_use]
    pub fn with(&self, keys: &Value) -> Self {
        let mut runtime = self.clone();
        if let (Some(config), Some(keys)) = (runtime.config.as_object_mut(), keys.as_object()) {
            for (key, value) in keys {
                config.insert(key.clone(), value.clone());
            }
            config.retain(|_, value| !value.is_null());
        }
        runtime
    }

    /// Its configuration.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Where its plugins are.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// A file that the plugin for addresses looks at, see [`STUB`].
    pub fn stub_file(&self, name: &str) -> PathBuf {
        self.bin.join("state").join(name)
    }

    /// The number that a pod's address is made of is behind its id's last dash.
    pub fn pod(&self, number: usize) -> Result<Pod> {
        let id = format!("pod-{number}");
        let namespace = Namespace::create(&format!("{}-{id}", self.namespace.name()))?;
        Ok(Pod { id, namespace })
    }

    /// The environment of a call for the device eth0 of a pod.
    pub fn env(&self, verb: &str, pod: Option<&Pod>) -> Vec<(String, String)> {
        let paths = format!("{}:{REFERENCE}", self.bin.display());
        let mut env = vec![("CNI_COMMAND".to_owned(), verb.to_owned()), ("CNI_PATH".to_owned(), paths)];
        if let Some(pod) = pod {
            let path = pod.namespace.path().display().to_string();
            let its = [("CNI_CONTAINERID", pod.id.clone()), ("CNI_NETNS", path), ("CNI_IFNAME", "eth0".to_owned())];
            env.extend(its.map(|(key, value)| (key.to_owned(), value)));
        }
        env
    }

    /// Calls a plugin for a pod.
    pub fn call(&self, verb: &str, pod: &Pod) -> Result<Answer> {
        self.call_with(&self.env(verb, Some(pod)), self.config.to_string())
    }

    /// Calls a plugin without a pod: STATUS, GC, VERSION.
    pub fn ask(&self, verb: &str) -> Result<Answer> {
        self.call_with(&self.env(verb, None), self.config.to_string())
    }

    /// Calls a plugin with exactly this environment and input.
    pub fn call_with(&self, env: &[(String, String)], input: String) -> Result<Answer> {
        let kind = self.config["type"].as_str().context("type")?;
        let program = [self.bin.join(kind), Path::new(REFERENCE).join(kind)].into_iter().find(|path| path.is_file());
        let program = program.with_context(|| format!("no plugin {kind}"))?;
        let env = env.to_vec();
        self.namespace.within(move || run(&program, &env, &input))
    }
}

fn run(program: &Path, env: &[(String, String)], input: &str) -> Result<Answer> {
    let began = Instant::now();
    let mut child = Command::new(program)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(env.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| program.display().to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that refuses at once does not read.
        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let took = began.elapsed();
    let text = String::from_utf8_lossy(&output.stdout);
    let json =
        if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).context(text.to_string())? };
    ensure!(output.status.code().is_some(), "{} was killed: {}", program.display(), output.status);
    Ok(Answer { json, success: output.status.success(), took })
}
