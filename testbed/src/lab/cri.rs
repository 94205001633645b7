//! A host's own containerd as a kubelet has it: spoken to by the container runtime interface (CRI), which is gRPC on a unix
//! socket. Messages are those of Kubernetes' `runtime/v1/api.proto` with the same field numbers, as far as pods need them;
//! protobuf skips what a reader doesn't know.
//!
//! containerd has a process namespace of its own, so that all it starts ends with it, and a mount namespace that shares
//! nothing with the machine but /run/netns: the pods' namespaces are there, where the agent sees them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use weft_control::api;

use super::cni::DEBIAN_PLUGINS;
use super::process::Process;
use super::verdict::wait_until;
use super::{Host, image, must};

/// Image of every container, of the pods' own ones too.
pub const IMAGE: &str = "localhost/box:latest";
/// How long containerd may take to come up, and to do what is asked on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Every mount but that of namespaces is this one's own; then containerd, which finds what it needs by its file.
const START: &str = r#"
set -eu
while read -r _ _ _ _ target _; do
    [ "$target" = /run/netns ] || mount --make-private "$target" || true
done </proc/self/mountinfo
mount -t proc proc /proc
exec containerd -c "$1"
"#;

/// A containerd with its files; ended when this goes, with all its pods.
#[derive(Debug)]
pub struct Containerd<'a> {
    host: &'a Host,
    dir: PathBuf,
    process: Arc<Process>,
    runtime: Runtime,
    grpc: Grpc<Channel>,
}

/// What a pod is to have.
#[derive(Clone, Copy, Debug, Default)]
pub struct PodWish<'a> {
    /// TCP ports of the host, with those of the pod that they lead to.
    pub ports: &'a [(i32, i32)],
    /// By key.
    pub annotations: &'a [(&'a str, &'a str)],
}

/// A pod, as it was asked for.
#[derive(Clone, Debug)]
pub struct Pod {
    /// containerd's name for it.
    pub id: String,
    config: PodSandboxConfig,
}

impl<'a> Containerd<'a> {
    /// Starts containerd for `host`, whose pods are connected by the configurations in `conf` with the plugins in `bin`.
    #[track_caller]
    pub fn start(host: &'a Host, (bin, conf): (&Path, &Path)) -> Self {
        let dir = host.ns.lab_file(&format!("{}-cri", host.name));
        must(fs::create_dir_all(&dir), "make containerd's directory");
        let loopback = bin.join("loopback");
        must(
            symlink(Path::new(DEBIAN_PLUGINS).join("loopback"), loopback),
            "link the plugin that containerd wants besides",
        );
        let text = config(&dir, bin, conf);
        let file = dir.join("config.toml");
        must(fs::write(&file, text), "write containerd's configuration");
        let file = file.to_string_lossy();
        let args = [
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--propagation",
            "unchanged",
            "sh",
            "-c",
            START,
            "sh",
            &file,
        ];
        let process = host
            .ns
            .spawn(&format!("{}.containerd", host.name), "unshare", &args);
        let runtime = must(
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build(),
            "start a runtime for gRPC",
        );
        let socket = format!("unix://{}", dir.join("sock").display());
        let endpoint = must(Endpoint::from_shared(socket), "name containerd's socket");
        let grpc = {
            let _inside = runtime.enter();
            Grpc::new(endpoint.timeout(PATIENCE).connect_lazy())
        };
        let containerd = Self {
            host,
            dir,
            process,
            runtime,
            grpc,
        };
        containerd.wait_ready();
        containerd
    }

    /// Until it answers, has the image, and says that pods can have a network.
    #[track_caller]
    fn wait_ready(&self) {
        let is_up = || {
            assert!(
                self.process.is_running(),
                "containerd ended:\n{}",
                self.process.log()
            );
            self.call::<StatusRequest, StatusResponse>("Status", &StatusRequest {})
                .ok()
        };
        wait_until(PATIENCE, "containerd answers", || is_up().is_some());
        let archive = image::archive(&self.dir, IMAGE);
        let (sock, archive) = (self.dir.join("sock"), archive);
        let (sock, archive) = (sock.to_string_lossy(), archive.to_string_lossy());
        self.host
            .ns
            .run_for(
                PATIENCE,
                "ctr",
                &[
                    "--address",
                    &sock,
                    "--namespace",
                    "k8s.io",
                    "images",
                    "import",
                    "--snapshotter",
                    "native",
                    &archive,
                ],
            )
            .expect_done();
        wait_until(PATIENCE, "pods can have a network", || {
            let conditions = is_up()
                .and_then(|status| status.status)
                .unwrap_or_default()
                .conditions;
            conditions.len() >= 2 && conditions.iter().all(|condition| condition.status)
        });
    }

    /// Makes a pod, as a kubelet does.
    ///
    /// # Errors
    /// What containerd says.
    pub fn pod(&self, name: &str, wish: &PodWish<'_>) -> Result<Pod, String> {
        let annotations = wish.annotations.iter().copied();
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("{name}-uid"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.dir.join("logs").to_string_lossy().into_owned(),
            port_mappings: wish
                .ports
                .iter()
                .map(|(host_port, container_port)| PortMapping {
                    protocol: 0,
                    container_port: *container_port,
                    host_port: *host_port,
                })
                .collect(),
            annotations: annotations.collect(),
            linux: Some(LinuxPodSandboxConfig {}),
        };
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
        };
        let made: RunPodSandboxResponse = self.call("RunPodSandbox", &request)?;
        let pod = Pod {
            id: made.pod_sandbox_id,
            config,
        };
        Ok(pod)
    }

    /// Starts a container that sleeps in a pod; answers with its id.
    ///
    /// # Errors
    /// What containerd says.
    pub fn container(&self, pod: &Pod) -> Result<String, String> {
        let created: CreateContainerResponse = self.call(
            "CreateContainer",
            &CreateContainerRequest {
                pod_sandbox_id: pod.id.clone(),
                config: Some(ContainerConfig {
                    metadata: Some(ContainerMetadata {
                        name: "main".to_owned(),
                    }),
                    image: Some(ImageSpec {
                        image: IMAGE.to_owned(),
                    }),
                    command: vec!["/bin/sleep".to_owned(), "36000".to_owned()],
                }),
                sandbox_config: Some(pod.config.clone()),
            },
        )?;
        let id = created.container_id;
        let start = StartContainerRequest {
            container_id: id.clone(),
        };
        self.call::<_, Empty>("StartContainer", &start)?;
        Ok(id)
    }

    /// Runs a shell command in a container; its exit code and what it printed.
    ///
    /// # Errors
    /// What containerd says.
    pub fn exec(&self, container: &str, script: &str) -> Result<(i32, String), String> {
        let done: ExecSyncResponse = self.call(
            "ExecSync",
            &ExecSyncRequest {
                container_id: container.to_owned(),
                cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
                timeout: 60,
            },
        )?;
        let printed = [done.stdout, done.stderr].concat();
        Ok((
            done.exit_code,
            String::from_utf8_lossy(&printed).into_owned(),
        ))
    }

    /// A pod's addresses, the first one first.
    ///
    /// # Errors
    /// What containerd says.
    pub fn addresses(&self, pod: &Pod) -> Result<Vec<String>, String> {
        let request = PodRequest {
            pod_sandbox_id: pod.id.clone(),
        };
        let status: PodSandboxStatusResponse = self.call("PodSandboxStatus", &request)?;
        let network = status
            .status
            .unwrap_or_default()
            .network
            .unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|more| more.ip);
        Ok(std::iter::once(network.ip).chain(more).collect())
    }

    /// Ends a pod: its network goes, then all of it.
    ///
    /// # Errors
    /// What containerd says.
    pub fn remove(&self, pod: &str) -> Result<(), String> {
        let request = PodRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.call::<_, Empty>("StopPodSandbox", &request)?;
        self.call::<_, Empty>("RemovePodSandbox", &request)?;
        Ok(())
    }

    /// What containerd said.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn call<Q, A>(&self, method: &str, request: &Q) -> Result<A, String>
    where
        Q: Message + Clone + Default + 'static,
        A: Message + Default + 'static,
    {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path = PathAndQuery::try_from(path).map_err(|error| error.to_string())?;
        let mut grpc = self.grpc.clone();
        let answer = self.runtime.block_on(async {
            grpc.ready()
                .await
                .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(tonic::Request::new(request.clone()), path, codec)
                .await
        });
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| format!("{method}: {}", status.message()))
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        // Whatever the test came to: their namespaces outlive containerd.
        let pods = self.call::<Empty, ListPodSandboxResponse>("ListPodSandbox", &Empty {});
        for pod in pods.unwrap_or_default().items {
            let _ = self.remove(&pod.id);
        }
        let ports = self.host.try_weft(&["ports", "--json"]).stdout;
        let ports: Vec<api::Port> = serde_json::from_str(&ports).unwrap_or_default();
        self.process.kill();
        for port in ports {
            let name = port.netns.rsplit('/').next().unwrap_or_default().to_owned();
            if name.starts_with("cni-") {
                super::namespace::delete(&name);
            }
        }
    }
}

/// Everything in the lab's directory, and nothing that the machine would have to have: no AppArmor, no huge pages.
fn config(dir: &Path, bin: &Path, conf: &Path) -> String {
    let (dir, bin, conf) = (dir.display(), bin.display(), conf.display());
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin}"
    conf_dir = "{conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"#
    )
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<RuntimeCondition>,
}

/// `RuntimeReady`, `NetworkReady`.
#[derive(Clone, PartialEq, Message)]
struct RuntimeCondition {
    #[prost(bool, tag = "2")]
    status: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PortMapping {
    /// 0 is TCP.
    #[prost(int32, tag = "1")]
    protocol: i32,
    #[prost(int32, tag = "2")]
    container_port: i32,
    #[prost(int32, tag = "3")]
    host_port: i32,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPodSandboxConfig {}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(message, repeated, tag = "5")]
    port_mappings: Vec<PortMapping>,
    #[prost(btree_map = "string, string", tag = "7")]
    annotations: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxResponse {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
}

/// Of StopPodSandbox, RemovePodSandbox and PodSandboxStatus alike.
#[derive(Clone, PartialEq, Message)]
struct PodRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<PodSandboxNetworkStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxNetworkStatus {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional_ips: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerResponse {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct StartContainerRequest {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSyncRequest {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, repeated, tag = "2")]
    cmd: Vec<String>,
    /// Seconds.
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSyncResponse {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    exit_code: i32,
}
