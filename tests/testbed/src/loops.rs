//! Raw block devices over image files.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::{Missing, Scratch, programs, root, run};

/// A block device of its own, all zeros at first. Gone when dropped, and when the process dies.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// The kernel detaches the device when the last one who has it open has closed it. Declared before the image, so
    /// closed before that is removed.
    _open: File,
    scratch: Scratch,
}

impl LoopDevice {
    /// A device of `size` bytes with sectors of `sector_size`.
    ///
    /// # Errors
    /// [`Missing`] without root, `losetup` or the kernel's support.
    pub fn attach(size: u64, sector_size: u32) -> Result<Self, Missing> {
        root()?;
        programs(&["losetup"])?;
        let scratch = Scratch::new()?;
        let image = scratch.beside("image");
        File::create_new(&image)
            .and_then(|file| file.set_len(size))
            .map_err(|e| Missing::new(format!("no image: {e}")))?;
        let sectors = sector_size.to_string();
        let args = ["--find", "--show", "--sector-size", &sectors].map(OsStr::new);
        let said = run("losetup", &[&args[..], &[image.as_os_str()]].concat())?;
        let path = PathBuf::from(said.trim());
        let open = File::open(&path);
        // It is open, so this only says that it goes with the last handle; where it is not, it goes now.
        run("losetup", &[OsStr::new("--detach"), path.as_os_str()])?;
        let open = open.map_err(|e| Missing::new(format!("`{}` cannot be opened: {e}", path.display())))?;
        Ok(Self { path, _open: open, scratch })
    }

    /// Its node, as `/dev/loop3`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds its blocks.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.scratch.beside("image")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek as _, SeekFrom};

    #[test]
    fn a_loop_device_has_its_size_and_is_detached_when_dropped() {
        let device = crate::need!(LoopDevice::attach(1 << 20, 512));
        let mut node = File::open(device.path()).unwrap();
        assert_eq!(node.seek(SeekFrom::End(0)).unwrap(), 1 << 20);
        drop(node);
        let (path, image) = (device.path().to_owned(), device.image());
        drop(device);
        assert!(!image.exists());
        // Somebody else may have it by now.
        let name = path.file_name().unwrap();
        let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
        let backing = std::fs::read_to_string(backing).unwrap_or_default();
        assert!(!backing.starts_with(image.to_str().unwrap()), "{backing}");
    }
}
