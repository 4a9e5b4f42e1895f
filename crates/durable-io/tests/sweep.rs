//! The sweep after a real process was killed in the middle of a write.

#[cfg(test)]
#[cfg(target_os = "linux")]
mod sweep {
    use std::io::{BufRead as _, BufReader};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use durable_io::{Dir, SweepOptions, WhyKept};

    const ROOT: &str = "STEADFAST_SWEEP_TEST_ROOT";

    /// Not a test of its own: what the killed process runs. It stages a file and waits for its end.
    #[test]
    fn child() {
        let Some(root) = std::env::var_os(ROOT) else { return };
        let dir = Dir::open(root).unwrap();
        let mut staged = dir.stage("target").unwrap();
        staged.write_all(b"half of it").unwrap();
        println!("\nstaged");
        // Until the parent kills this process, or is gone itself.
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
    }

    fn temps(root: &Path) -> usize {
        std::fs::read_dir(root)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".tmp"))
            .count()
    }

    #[test]
    fn the_temporary_file_of_a_killed_process_goes_and_that_of_a_live_one_stays() {
        let root = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sweep::child", "--nocapture"])
            .env(ROOT, root.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        assert!(stdout.lines().any(|line| line.unwrap() == "staged"));
        let dir = Dir::open(root.path()).unwrap();

        let report = dir.sweep(&SweepOptions::default()).unwrap();
        assert_eq!((report.removed.len(), report.kept.len()), (0, 1));
        assert_eq!(report.kept[0].why, WhyKept::Alive);

        // SIGKILL. Until it is waited for it is a zombie, which can never come back to its file either.
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(temps(root.path()), 1);
        let report = dir.sweep(&SweepOptions::default()).unwrap();
        assert_eq!((report.removed.len(), report.kept.len()), (1, 0));
        assert_eq!((temps(root.path()), root.path().join("target").exists()), (0, false));
    }
}
