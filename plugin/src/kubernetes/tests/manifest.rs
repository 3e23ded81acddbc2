//! The manifest and the Helm chart: that an API server takes every key of them, that both say the same, and that a sidecar may do
//! what it does. What Helm does with its `if` and `range` is not run here.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Secret, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::super::RECORD;

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docker").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap()
}

fn manifest() -> Vec<Value> {
    documents("kubernetes/weft.yaml")
}

fn typed<T: DeserializeOwned>(documents: &[Value], kind: &str) -> T {
    let document = documents.iter().find(|document| document["kind"] == kind).unwrap();
    serde_json::from_value(document.clone()).unwrap()
}

/// The document as its type's fields are, if they are all there.
fn through<T: Serialize + DeserializeOwned>(document: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<T>(document.clone()).unwrap()).unwrap()
}

/// Every value of `whole` is in `part`, at the same place.
fn assert_kept(part: &Value, whole: &Value, place: &str) {
    match whole {
        Value::Object(fields) => {
            for (key, value) in fields {
                assert_kept(&part[key], value, &format!("{place}.{key}"));
            }
        }
        Value::Array(items) => {
            assert_eq!(part.as_array().map(Vec::len), Some(items.len()), "{place}");
            for (index, item) in items.iter().enumerate() {
                assert_kept(&part[index], item, &format!("{place}[{index}]"));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => assert_eq!(part, whole, "{place}"),
    }
}

fn assert_known(document: &Value) {
    let kind = document["kind"].as_str().unwrap();
    let through = match kind {
        "ServiceAccount" => through::<ServiceAccount>(document),
        "ClusterRole" => through::<ClusterRole>(document),
        "ClusterRoleBinding" => through::<ClusterRoleBinding>(document),
        "Role" => through::<Role>(document),
        "RoleBinding" => through::<RoleBinding>(document),
        "ConfigMap" => through::<ConfigMap>(document),
        "DaemonSet" => through::<DaemonSet>(document),
        "Secret" => through::<Secret>(document),
        kind => panic!("a {kind}?"),
    };
    assert_kept(&through, document, kind);
}

#[test]
fn an_api_server_knows_every_key() {
    let documents = manifest();
    assert_eq!(documents.len(), 7);
    documents.iter().for_each(assert_known);
    documents_of_the_chart().iter().for_each(assert_known);
}

#[test]
#[should_panic(expected = "DaemonSet.spec.template.spec.hostNetwrk")]
fn a_misspelt_key_is_noticed() {
    let mut documents = manifest();
    let daemon_set = documents.iter_mut().find(|document| document["kind"] == "DaemonSet").unwrap();
    daemon_set["spec"]["template"]["spec"]["hostNetwrk"] = true.into();
    assert_known(daemon_set);
}

/// The chart's template as Helm fills it in by default, but for optional parts: all of these are in here.
fn documents_of_the_chart() -> Vec<Value> {
    let values: Value = serde_saphyr::from_str(&read("helm/weft/values.yaml")).unwrap();
    let chart: BTreeMap<String, String> = serde_saphyr::from_str(&read("helm/weft/Chart.yaml")).unwrap();
    assert_eq!(values["image"]["tag"], chart["appVersion"].as_str());
    let mut documents = documents("helm/weft/templates/weft.yaml");
    documents.iter_mut().for_each(|document| fill_in(document, &values));
    documents
}

fn fill_in(value: &mut Value, values: &Value) {
    match value {
        Value::Object(fields) => {
            *fields = std::mem::take(fields)
                .into_iter()
                .map(|(mut key, mut value)| {
                    fill_in_text(&mut key, values);
                    fill_in(&mut value, values);
                    (key, value)
                })
                .collect();
        }
        Value::Array(items) => {
            // The body of a `range`.
            items.retain(|item| item != "{{ . }}");
            items.iter_mut().for_each(|item| fill_in(item, values));
        }
        Value::String(text) => fill_in_text(text, values),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn fill_in_text(text: &mut String, values: &Value) {
    while let Some((before, rest)) = text.split_once("{{ ") {
        let (name, after) = rest.split_once(" }}").unwrap();
        let value = match name.strip_prefix(".Values.") {
            Some(path) => path.split('.').fold(values, |value, key| &value[key]).as_str().unwrap(),
            None if name == ".Release.Namespace" => "kube-system",
            None => panic!("{name}?"),
        };
        *text = format!("{before}{value}{after}");
    }
}

#[test]
fn the_chart_makes_what_the_manifest_says() {
    let mut chart = documents_of_the_chart();
    let secret = chart.pop().unwrap();
    assert_eq!(secret["kind"], "Secret");
    for (chart, manifest) in chart.iter().zip(manifest()) {
        assert_kept(chart, &manifest, manifest["kind"].as_str().unwrap());
        assert_kept(&manifest, chart, manifest["kind"].as_str().unwrap());
    }
    assert_eq!(chart.len(), manifest().len());
    // Control structures are comments, and each ends.
    let template = read("helm/weft/templates/weft.yaml");
    let controls: Vec<&str> = template.lines().filter(|line| line.contains("{{-")).map(str::trim).collect();
    assert!(controls.iter().all(|line| line.starts_with("# {{- ") && line.ends_with(" }}")), "{controls:?}");
    let ends = controls.iter().filter(|line| **line == "# {{- end }}").count();
    assert_eq!(ends * 2, controls.len(), "{controls:?}");
}

#[test]
fn the_processes_of_a_node_agree_where_things_are() {
    let daemon_set: DaemonSet = typed(&manifest(), "DaemonSet");
    let pod = daemon_set.spec.unwrap().template.spec.unwrap();
    assert_eq!((pod.host_network, pod.priority_class_name.as_deref()), (Some(true), Some("system-node-critical")));
    let all: BTreeMap<String, _> =
        pod.containers.into_iter().chain(pod.init_containers.unwrap()).map(|c| (c.name.clone(), c)).collect();
    let router = all["router"].args.clone().unwrap();
    // The default of `weft kubernetes`.
    assert!(router.contains(&"--config=/var/lib/weft/kubernetes/peers.toml".into()));
    let mounts = |name: &str| -> Vec<(String, String)> {
        let mounts = all[name].volume_mounts.clone().unwrap_or_default();
        mounts.into_iter().map(|mount| (mount.name, mount.mount_path)).collect()
    };
    let [peers, run] = [("peers", "/var/lib/weft/kubernetes"), ("run", "/run/weft")]
        .map(|(name, path)| (name.to_owned(), path.to_owned()));
    assert!(mounts("router").contains(&run));
    assert_eq!(mounts("peers"), std::slice::from_ref(&peers));
    // It sees neither the router's key nor the secret.
    assert_eq!(mounts("kubernetes"), [peers, run]);
    for name in ["peers", "kubernetes", "router"] {
        let env = all[name].env.clone().unwrap();
        assert_eq!(env[0].name, "NODE_NAME", "{name}");
    }
    // Targets of volume mounts are volumes.
    let volumes: Vec<String> = pod.volumes.unwrap().into_iter().map(|volume| volume.name).collect();
    for name in all.keys() {
        assert!(mounts(name).iter().all(|(volume, _)| volumes.contains(volume)), "{name}");
    }
}

/// containerd and CRI-O name a pod's namespace by `/var/run/netns/…`, which is a link on their side.
#[test]
fn the_router_finds_namespaces_where_runtimes_say_they_are() {
    let daemon_set: DaemonSet = typed(&manifest(), "DaemonSet");
    let containers = daemon_set.spec.unwrap().template.spec.unwrap().containers;
    let router = containers.into_iter().find(|container| container.name == "router").unwrap();
    let netns = router.volume_mounts.unwrap().into_iter().find(|mount| mount.name == "netns").unwrap();
    assert_eq!(
        (netns.mount_path.as_str(), netns.mount_propagation.as_deref()),
        ("/run/netns", Some("HostToContainer"))
    );

    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docker/rootfs.sh");
    assert!(Command::new(script).arg(&image).arg("cat").status().unwrap().success());
    assert_eq!(fs::canonicalize(image.join("var/run")).unwrap(), fs::canonicalize(image.join("run")).unwrap());
}

/// What the manifest allows a sidecar.
pub(super) struct Rights {
    cluster: Vec<PolicyRule>,
    namespace: Vec<PolicyRule>,
}

impl Rights {
    pub(super) fn of_the_manifest() -> Self {
        let documents = manifest();
        let cluster: ClusterRole = typed(&documents, "ClusterRole");
        let namespace: Role = typed(&documents, "Role");
        Self { cluster: cluster.rules.unwrap(), namespace: namespace.rules.unwrap() }
    }

    /// Whether a call is allowed, as an API server judges it.
    pub(super) fn allow(&self, method: &str, path: &str, query: &str) -> bool {
        let path: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (rules, resource, name) = match path[..] {
            ["api", "v1", "namespaces", _, resource, name] => (&self.namespace, resource.to_owned(), name),
            ["api", "v1", resource] => (&self.cluster, resource.to_owned(), ""),
            ["api", "v1", resource, name] => (&self.cluster, resource.to_owned(), name),
            ["api", "v1", resource, name, part] => (&self.cluster, format!("{resource}/{part}"), name),
            _ => return false,
        };
        let verb = match method {
            "GET" if !name.is_empty() => "get",
            "GET" if query.contains("watch=true") => "watch",
            "GET" => "list",
            "PATCH" => "patch",
            _ => return false,
        };
        rules.iter().any(|rule| {
            let has = |list: &Option<Vec<String>>, what: &str| {
                list.as_ref().is_some_and(|list| list.iter().any(|x| x == what))
            };
            rule.verbs.iter().any(|x| x == verb)
                && has(&rule.api_groups, "")
                && has(&rule.resources, &resource)
                && (rule.resource_names.is_none() || has(&rule.resource_names, name))
        })
    }
}

#[test]
fn a_sidecar_has_no_rights_beyond_its_work() {
    let rights = Rights::of_the_manifest();
    assert!(rights.allow("GET", "/api/v1/nodes", "limit=500") && rights.allow("GET", "/api/v1/nodes/a", ""));
    assert!(rights.allow("GET", &format!("/api/v1/namespaces/kube-system/configmaps/{RECORD}"), ""));
    for (method, path) in [
        ("PATCH", "/api/v1/nodes/a"),
        ("DELETE", "/api/v1/nodes/a"),
        ("GET", "/api/v1/pods"),
        ("GET", "/api/v1/namespaces/kube-system/secrets/weft"),
        ("PATCH", "/api/v1/namespaces/kube-system/configmaps/coredns"),
    ] {
        assert!(!rights.allow(method, path, ""), "{method} {path}");
    }
}
