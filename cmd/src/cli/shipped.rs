//! The command lines in the files that are shipped for others to run: this program takes each of them.

use std::{fs, path::Path};

use clap::Parser;
use serde_json::Value;

use super::{Cli, Verb};

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All values of this key, wherever they are in a document.
fn all<'v>(value: &'v Value, key: &str) -> Vec<&'v Value> {
    let below = |(name, value): (&String, &'v Value)| if name == key { vec![value] } else { all(value, key) };
    match value {
        Value::Object(fields) => fields.iter().flat_map(below).collect(),
        Value::Array(items) => items.iter().flat_map(|item| all(item, key)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn words(list: &Value) -> Vec<String> {
    serde_json::from_value(list.clone()).unwrap_or_default()
}

/// What this program makes of a command line, whose first word is its own name.
fn taken(words: &[String], place: &str) -> Verb {
    // A pod tells the node's name by the environment.
    let node = words.iter().any(|word| word == "kubernetes").then(|| "--node=node-1".to_owned());
    let taken = Cli::try_parse_from(words.iter().cloned().chain(node));
    taken.unwrap_or_else(|error| panic!("{place}: {words:?}: {error}")).verb
}

/// What Helm makes of the chart is the same; the plugin's tests compare them.
#[test]
fn the_commands_of_the_manifest_for_kubernetes_are_taken() {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&file("kubernetes/weft.yaml")).unwrap();
    let is_set = |value: &Value| value["kind"] == "DaemonSet";
    let pod = &documents.iter().find(|document| is_set(document)).unwrap()["spec"]["template"]["spec"];
    let containers = ["initContainers", "containers"].map(|key| pod[key].as_array().unwrap().clone()).concat();
    let command = |container: &Value| [words(&container["command"]), words(&container["args"])].concat();
    let verbs: Vec<Verb> = containers.iter().map(|container| taken(&command(container), "weft.yaml")).collect();
    assert_eq!(
        verbs.len(),
        documents.iter().flat_map(|document| all(document, "command")).count(),
        "one is overlooked"
    );
    let [Verb::Kubernetes(first), Verb::SetupCni { .. }, Verb::Router { flags, .. }, Verb::Kubernetes(beside)] =
        &verbs[..]
    else {
        panic!("{containers:?}");
    };
    assert!(first.first_peers && !beside.first_peers);
    assert!(flags.password_file.is_some() && flags.no_dns);
}

#[test]
fn the_commands_for_docker_and_for_services_are_taken() {
    let compose: Value = serde_saphyr::from_str(&file("compose.yaml")).unwrap();
    let commands = all(&compose, "command");
    assert_eq!(commands.len(), 3);
    for command in commands {
        // The image's entry point is this program.
        let words = [vec!["weft".to_owned()], words(command)].concat();
        assert!(matches!(taken(&words, "compose.yaml"), Verb::Router { .. }), "{words:?}");
    }

    let service = file("weft.service");
    let start = service.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    taken(&start.split(' ').map(str::to_owned).collect::<Vec<_>>(), "weft.service");

    let plugin: Value = serde_json::from_str(&file("plugin/config.json")).unwrap();
    let Verb::Router { flags, .. } = taken(&words(&plugin["entrypoint"]), "plugin/config.json") else {
        panic!("{plugin}")
    };
    assert!(flags.docker_plugin.is_some() && flags.docker_scope.is_some());
    // In a swarm no router chooses addresses, so none shall be asked: it is refused before a network is made.
    assert_eq!(plugin["interface"]["types"], serde_json::json!(["docker.networkdriver/1.0"]));
}
