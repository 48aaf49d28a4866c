//! What a pod runs in. A process that does nothing holds the pod's network;
//! each container has mounts and processes of its own beside that.
//!
//! There are no layers of images here: a container sees `/usr` and what belongs
//! to it of this machine, read-only, the files of its image in `/app`, and its
//! volumes. What a security context asks for is not done: all run as the user
//! that runs the tests.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::enter::children;
use super::image::{FOLDER, Image};
use crate::child::Child;
use crate::eventually;

/// Holds the network of a pod. It ends when it is dropped.
pub(super) struct Pause {
    child: Child,
}

impl Pause {
    /// Starts one, and waits until its network is there.
    pub(super) async fn start(folder: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "infinity"]);
        let child = Child::start("pause", &mut command, &folder.join("pause.log"));
        let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let ours = namespace("self");
        eventually("a pod's network", || async {
            match namespace(&child.pid().to_string()) {
                Some(its) if Some(&its) != ours.as_ref() => Ok(()),
                other => Err(other),
            }
        })
        .await;
        Self { child }
    }

    pub(super) fn process(&self) -> u32 {
        self.child.pid()
    }
}

/// What a container is to be.
pub(super) struct Plan<'a> {
    pub(super) name: &'a str,
    pub(super) pod: &'a str,
    pub(super) pod_ip: String,
    pub(super) image: &'static Image,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    /// Files and folders of this machine, the places where they are mounted, and
    /// whether they are only to be read.
    pub(super) mounts: Vec<(PathBuf, String, bool)>,
    /// What questions of DNS are completed with.
    pub(super) namespace: &'a str,
}

/// A container that was started. Its processes end when it is dropped.
pub(super) struct Container {
    child: Child,
    environment: BTreeMap<String, String>,
}

impl Container {
    /// Starts one in the network of a pod, and waits until it has left the script
    /// that makes its root. Its files are in a folder.
    pub(super) async fn start(plan: &Plan<'_>, pause: u32, folder: &Path) -> std::io::Result<Self> {
        let root = folder.join("root");
        std::fs::create_dir_all(&root)?;
        let script = folder.join("start.sh");
        std::fs::write(&script, start_script(plan, &root))?;
        std::fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n{} {}\n", plan.pod_ip, plan.pod))?;
        std::fs::write(folder.join("resolv.conf"), resolv_conf(plan.namespace))?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pause}/ns/net"));
        command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts"]);
        command.args(["sh", "-eu"]).arg(&script).args(&plan.command);
        command.env_clear().envs(&plan.environment);
        let child = Child::start(plan.name, &mut command, &folder.join("log"));
        let container = Self { child, environment: plan.environment.clone() };
        while container.child.ended().is_none() && !container.has_root() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // For people: everything else asks.
        let process = container.process().map(|process| process.to_string()).unwrap_or_default();
        std::fs::write(folder.join("process"), process)?;
        Ok(container)
    }

    fn has_root(&self) -> bool {
        let root = self.process().and_then(|process| std::fs::read_link(format!("/proc/{process}/root")).ok());
        root.is_some_and(|root| root != Path::new("/"))
    }

    /// The first process inside; `None` if there is none yet or any more.
    pub(super) fn process(&self) -> Option<u32> {
        children(self.child.pid()).first().copied()
    }

    /// How it ended, if it has, as Kubernetes shows it.
    pub(super) fn ended(&self) -> Option<i32> {
        self.child.ended().map(exit_code)
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) {
        if let Some(process) = self.process() {
            let _ = Command::new("kill").args(["-s", "TERM", &process.to_string()]).status();
        }
    }

    /// Ends all of it.
    pub(super) fn kill(&self) {
        if self.child.ended().is_none() {
            self.child.signal("KILL");
        }
    }

    /// A command that runs in it.
    pub(super) fn exec(&self, command: &[&str]) -> Option<tokio::process::Command> {
        let process = self.process()?;
        let mut exec = tokio::process::Command::new("nsenter");
        exec.arg("--target").arg(process.to_string()).args(["--net", "--mount", "--pid", "--uts", "--root", "--wd"]);
        exec.args(command).env_clear().envs(&self.environment).kill_on_drop(true);
        Some(exec)
    }

    pub(super) fn log_path(&self) -> &Path {
        self.child.log_path()
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn resolv_conf(namespace: &str) -> String {
    let dns = super::network::DNS;
    format!("nameserver {dns}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n")
}

/// What makes the root of a container, and becomes what runs in it.
fn start_script(plan: &Plan<'_>, root: &Path) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let folder = root.parent().expect("the root is in a folder");
    let mut script = format!(
        "root={}\n\
         mount -t tmpfs -o mode=755 root \"$root\"\n\
         cd \"$root\"\n\
         mkdir -p app dev etc proc run sys tmp var/lib var/log\n\
         chmod 1777 tmp\n\
         ln -s ../run var/run\n\
         for folder in bin lib lib32 lib64 sbin usr; do\n\
           if [ -L /$folder ]; then cp -P /$folder .\n\
           elif [ -d /$folder ]; then mkdir $folder; mount --bind -o ro /$folder $folder; fi\n\
         done\n\
         for file in group ld.so.cache localtime nsswitch.conf passwd protocols services; do\n\
           if [ -e /etc/$file ]; then cp -L /etc/$file etc/; fi\n\
         done\n\
         for folder in alternatives ssl; do\n\
           if [ -d /etc/$folder ]; then mkdir etc/$folder; mount --bind -o ro /etc/$folder etc/$folder; fi\n\
         done\n\
         mount --rbind /dev dev\n\
         mount --rbind /sys sys\n\
         mount -t proc proc proc\n\
         hostname {}\n\
         echo {} >etc/hostname\n",
        quoted(root),
        plan.pod,
        plan.pod
    );
    let mut mount = |from: &Path, to: &str, read_only: bool| {
        let to = to.trim_start_matches('/');
        let make = match from.is_dir() {
            true => format!("mkdir -p '{to}'"),
            false => format!("mkdir -p \"$(dirname '{to}')\"; touch '{to}'"),
        };
        let options = if read_only { " -o ro" } else { "" };
        let _ = writeln!(script, "{make}; mount --bind{options} {} '{to}'", quoted(from));
    };
    mount(&folder.join("hosts"), "etc/hosts", true);
    mount(&folder.join("resolv.conf"), "etc/resolv.conf", true);
    for (name, file) in (plan.image.files)() {
        mount(&file, &format!("{FOLDER}/{name}"), true);
    }
    // Outer ones first.
    let mut mounts = plan.mounts.clone();
    mounts.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
    for (from, to, read_only) in mounts {
        // What a container has at /var/run is in /run.
        let to = to.strip_prefix("/var/run").map_or(to.clone(), |rest| format!("/run{rest}"));
        mount(&from, &to, read_only);
    }
    script.push_str("exec chroot . \"$@\"\n");
    script
}
