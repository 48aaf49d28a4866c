//! The volumes of a pod, as folders of this machine, and what of a ConfigMap or
//! a Secret its environment takes.
//!
//! Kinds that the stage does not know keep the pod from starting, and say so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::fields::{expand, field, resource};
use crate::api::Api;
use crate::watch::Watch;

/// What else is read of the cluster.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) api: Api,
    pub(super) config_maps: Watch,
    pub(super) secrets: Watch,
}

/// Contents of files by their paths.
type Files = BTreeMap<String, Vec<u8>>;

/// The volumes of one pod.
pub(super) struct Volumes {
    folder: PathBuf,
    sources: Sources,
    /// Tokens with the time to get the next, by audience and lifetime.
    tokens: BTreeMap<(String, u64), (String, Instant)>,
}

impl Volumes {
    pub(super) fn new(folder: &Path, sources: Sources) -> Self {
        Self { folder: folder.join("volumes"), sources, tokens: BTreeMap::new() }
    }

    /// Makes all volumes what they should be now. An error says what is not
    /// there yet.
    pub(super) async fn update(&mut self, pod: &Value) -> Result<(), String> {
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            let name = volume["name"].as_str().unwrap_or_default();
            let folder = self.folder.join(name);
            std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
            if volume["emptyDir"].is_object() {
                continue;
            }
            let files = self.files(pod, volume).await.map_err(|reason| format!("volume {name}: {reason}"))?;
            write(&folder, &files).map_err(|error| format!("volume {name}: {error}"))?;
        }
        Ok(())
    }

    async fn files(&mut self, pod: &Value, volume: &Value) -> Result<Files, String> {
        if let Some(sources) = volume["projected"]["sources"].as_array() {
            let mut files = Files::new();
            for source in sources {
                files.extend(self.source(pod, source).await?);
            }
            return Ok(files);
        }
        self.source(pod, volume).await
    }

    async fn source(&mut self, pod: &Value, source: &Value) -> Result<Files, String> {
        let (kind, source) =
            source.as_object().into_iter().flatten().find(|(key, _)| *key != "name").ok_or("no kind")?;
        match kind.as_str() {
            "configMap" | "secret" => {
                let name = source["name"].as_str().or(source["secretName"].as_str()).unwrap_or_default();
                let data = self.sources.data(pod, kind, name, &source["optional"])?;
                let Some(items) = source["items"].as_array() else { return Ok(data) };
                let text = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
                let item = |item: &Value| match data.get(&text(item, "key")) {
                    Some(content) => Ok((text(item, "path"), content.clone())),
                    None => Err(format!("{kind} {name} has no {}", item["key"])),
                };
                items.iter().map(item).collect()
            }
            "downwardAPI" => {
                let items = source["items"].as_array().into_iter().flatten();
                let item = |item: &Value| {
                    let path = item["fieldRef"]["fieldPath"].as_str().ok_or("only fields of the pod are known")?;
                    let value = field(pod, path).ok_or_else(|| format!("there is no {path}"))?;
                    Ok((item["path"].as_str().unwrap_or_default().to_owned(), value.into_bytes()))
                };
                items.map(item).collect()
            }
            "serviceAccountToken" => {
                let audience = source["audience"].as_str().unwrap_or_default();
                let seconds = source["expirationSeconds"].as_u64().unwrap_or(3600);
                let token = self.token(pod, audience, seconds).await?;
                Ok([(source["path"].as_str().unwrap_or_default().to_owned(), token.into_bytes())].into())
            }
            other => Err(format!("{other} is not known on the stage")),
        }
    }

    /// A token, which is a new one when four fifths of its time are over.
    pub(super) async fn token(&mut self, pod: &Value, audience: &str, seconds: u64) -> Result<String, String> {
        let key = (audience.to_owned(), seconds);
        if let Some((token, next)) = self.tokens.get(&key)
            && Instant::now() < *next
        {
            return Ok(token.clone());
        }
        let audience = Some(audience).filter(|audience| !audience.is_empty());
        let token = self.sources.api.pod_token(pod, audience, seconds).await.map_err(|refused| refused.message)?;
        self.tokens.insert(key, (token.clone(), Instant::now() + Duration::from_secs(seconds * 4 / 5)));
        Ok(token)
    }

    /// Where the volumes of a container are on this machine, the places to mount
    /// them, and whether they are only to be read.
    pub(super) fn mounts(&self, pod: &Value, container: &Value) -> Vec<(PathBuf, String, bool)> {
        let volumes = pod["spec"]["volumes"].as_array();
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        let mount = |mount: &Value| {
            let text = |name: &str| mount[name].as_str().unwrap_or_default();
            let volume = volumes.into_iter().flatten().find(|volume| volume["name"] == mount["name"]);
            let writable = volume.is_some_and(|volume| volume["emptyDir"].is_object()) && mount["readOnly"] != true;
            (self.folder.join(text("name")).join(text("subPath")), text("mountPath").to_owned(), !writable)
        };
        mounts.map(mount).collect()
    }
}

impl Sources {
    /// What is in a ConfigMap or a Secret.
    fn data(&self, pod: &Value, kind: &str, name: &str, optional: &Value) -> Result<Files, String> {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let objects = if kind == "secret" { &self.secrets } else { &self.config_maps };
        let Some(object) = objects.get(namespace, name) else {
            return if *optional == true { Ok(Files::new()) } else { Err(format!("{kind} {name} is not there")) };
        };
        let entries = |field: &str| object[field].as_object().cloned().unwrap_or_default();
        let encoded = |text: &Value| openssl::base64::decode_block(text.as_str().unwrap_or_default());
        let encoded = |(key, text): (String, Value)| match encoded(&text) {
            Ok(content) => Ok((key, content)),
            Err(error) => Err(format!("{kind} {name}: {key}: {error}")),
        };
        let plain = |(key, text): (String, Value)| (key, text.as_str().unwrap_or_default().as_bytes().to_vec());
        match kind {
            "secret" => entries("data").into_iter().map(encoded).collect(),
            _ => {
                let binary: Result<Files, String> = entries("binaryData").into_iter().map(encoded).collect();
                Ok(entries("data").into_iter().map(plain).chain(binary?).collect())
            }
        }
    }

    /// The environment of a container.
    pub(super) fn environment(
        &self,
        pod: &Value,
        container: &Value,
        before: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, String> {
        let mut environment = before;
        let text = |content: Vec<u8>| String::from_utf8_lossy(&content).into_owned();
        for from in container["envFrom"].as_array().into_iter().flatten() {
            let (kind, source) = match from["secretRef"].is_object() {
                true => ("secret", &from["secretRef"]),
                false => ("configMap", &from["configMapRef"]),
            };
            let data = self.data(pod, kind, source["name"].as_str().unwrap_or_default(), &source["optional"])?;
            let prefix = from["prefix"].as_str().unwrap_or_default();
            environment.extend(data.into_iter().map(|(key, content)| (format!("{prefix}{key}"), text(content))));
        }
        for variable in container["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().unwrap_or_default();
            let from = &variable["valueFrom"];
            let of = |kind: &str, source: &Value| {
                let data = self.data(pod, kind, source["name"].as_str().unwrap_or_default(), &source["optional"])?;
                let key = source["key"].as_str().unwrap_or_default();
                match data.get(key).cloned() {
                    None if source["optional"] != true => Err(format!("{kind} has no {key}")),
                    content => Ok(content.map(text)),
                }
            };
            let value = if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
                Some(field(pod, path).ok_or_else(|| format!("{name}: there is no {path}"))?)
            } else if let Some(path) = from["resourceFieldRef"]["resource"].as_str() {
                let divisor = &from["resourceFieldRef"]["divisor"];
                let value = resource(container, path, divisor.as_str().unwrap_or_default());
                Some(value.ok_or_else(|| format!("{name}: there is no {path}"))?)
            } else if from["configMapKeyRef"].is_object() {
                of("configMap", &from["configMapKeyRef"])?
            } else if from["secretKeyRef"].is_object() {
                of("secret", &from["secretKeyRef"])?
            } else {
                Some(expand(variable["value"].as_str().unwrap_or_default(), &environment))
            };
            environment.extend(value.map(|value| (name.to_owned(), value)));
        }
        Ok(environment)
    }
}

/// Makes a folder hold exactly these files. Each is replaced as a whole.
fn write(folder: &Path, files: &Files) -> std::io::Result<()> {
    for (path, content) in files {
        let file = folder.join(path);
        if std::fs::read(&file).is_ok_and(|old| old == *content) {
            continue;
        }
        std::fs::create_dir_all(file.parent().unwrap_or(folder))?;
        let draft = folder.join(".draft");
        std::fs::write(&draft, content)?;
        std::fs::rename(&draft, &file)?;
    }
    let kept: BTreeSet<_> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let stale = entry.file_name().to_str().is_some_and(|name| !kept.contains(name));
        if stale && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
