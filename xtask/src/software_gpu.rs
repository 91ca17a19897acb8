//! Runs the WGPU backend on a machine without a GPU.
//!
//! Browsers ship SwiftShader, a Vulkan driver that computes on the CPU. It is slow, but it runs the same kernels as a GPU.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Tells the Vulkan loader which drivers to use.
const DRIVERS: &str = "VK_DRIVER_FILES";
/// The name of this variable in older loaders.
const DRIVERS_OLD: &str = "VK_ICD_FILENAMES";

/// The Vulkan loader, which browsers include. Without it WGPU falls back to OpenGL, where it hangs.
const LOADER: &str = "libvulkan.so.1";
/// Folders that are searched first for shared libraries.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// Folders in which Linux distributions and vendors register GPU drivers.
const DRIVER_FOLDERS: [&str; 4] = [
    "/etc/vulkan/icd.d",
    "/usr/share/vulkan/icd.d",
    "/usr/local/share/vulkan/icd.d",
    "/usr/local/etc/vulkan/icd.d",
];

/// Folders in which browsers keep SwiftShader.
const SWIFTSHADER: [&str; 5] = [
    "/usr/lib/chromium/vk_swiftshader_icd.json",
    "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
    "/usr/lib64/chromium-browser/vk_swiftshader_icd.json",
    "/opt/google/chrome/vk_swiftshader_icd.json",
    "/snap/chromium/current/usr/lib/chromium-browser/vk_swiftshader_icd.json",
];

/// The variables to set for a program that uses WGPU: none if a GPU driver is installed, else those for SwiftShader. Prints what it
/// does.
pub fn environment() -> Vec<(&'static str, OsString)> {
    let chosen = [DRIVERS, DRIVERS_OLD]
        .iter()
        .find_map(|name| env::var(name).ok());
    let found = choose(chosen.as_deref(), has_driver(), |path| {
        Path::new(path).is_file()
    });
    let Some(driver) = found else {
        return Vec::new();
    };
    let libraries = env::var_os(LIBRARIES);
    let mut set = settings(&driver, |path| path.is_file(), libraries.as_ref());
    // The user's settings stay; library folders are added to the user's.
    let forced = [LIBRARIES, "RUST_BACKTRACE"];
    set.retain(|(name, _)| forced.contains(name) || env::var_os(name).is_none());
    eprintln!(
        "xtask: using the software driver {driver}, which is slow: some minutes for the first step; \
         \"Out of Memory\" lines come from a probe of memory speed and do no harm"
    );
    for (name, value) in &set {
        eprintln!("xtask: {name}={}", value.display());
    }
    set
}

/// SwiftShader's file, if it is the driver to use: the user chose it, or there is no other driver.
fn choose(chosen: Option<&str>, has_driver: bool, exists: impl Fn(&str) -> bool) -> Option<String> {
    match chosen {
        Some(files) => files.contains("swiftshader").then(|| files.to_owned()),
        None if has_driver => None,
        None => SWIFTSHADER
            .iter()
            .find(|path| exists(path))
            .map(|path| (*path).to_owned()),
    }
}

/// There is no point in timing every variant of every kernel there, and the loader needs a run-time folder.
fn settings(
    driver: &str,
    exists: impl Fn(&Path) -> bool,
    libraries: Option<&OsString>,
) -> Vec<(&'static str, OsString)> {
    let mut set = vec![
        (DRIVERS, driver.into()),
        ("CUBECL_AUTOTUNE_LEVEL", "minimal".into()),
        // This probe fails dozens of times; one line each is enough.
        ("RUST_BACKTRACE", "0".into()),
        ("XDG_RUNTIME_DIR", env::temp_dir().into_os_string()),
    ];
    // Several drivers may be listed; the loader is next to the browser's driver.
    let folder = Path::new(driver).parent().unwrap_or(Path::new(""));
    if exists(&folder.join(LOADER)) {
        let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
        folders.extend(libraries.iter().flat_map(env::split_paths));
        if let Ok(joined) = env::join_paths(folders) {
            set.push((LIBRARIES, joined));
        }
    }
    set
}

/// Whether a driver is registered. On systems other than Linux the system has its own.
fn has_driver() -> bool {
    !cfg!(target_os = "linux")
        || DRIVER_FOLDERS.iter().any(|folder| {
            let files = Path::new(folder).read_dir().into_iter().flatten().flatten();
            files.map(|file| file.path()).any(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "json")
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swiftshader_is_used_only_without_another_driver() {
        let some = |path: &str| path == SWIFTSHADER[1];
        assert_eq!(choose(None, false, some).as_deref(), Some(SWIFTSHADER[1]));
        assert_eq!(choose(None, false, |_| false), None);
        assert_eq!(choose(None, true, some), None);
        assert_eq!(choose(Some("/etc/nvidia_icd.json"), false, some), None);
        assert_eq!(
            choose(Some("/else/vk_swiftshader_icd.json"), true, some).as_deref(),
            Some("/else/vk_swiftshader_icd.json")
        );
    }

    #[test]
    fn swiftshader_does_not_tune_and_brings_its_loader() {
        let set = settings("browser/driver.json", |_| false, None);
        assert!(set.contains(&("VK_DRIVER_FILES", "browser/driver.json".into())));
        assert!(set.contains(&("CUBECL_AUTOTUNE_LEVEL", "minimal".into())));
        assert!(set.iter().any(|(name, _)| *name == "XDG_RUNTIME_DIR"));
        assert!(set.iter().all(|(name, _)| *name != LIBRARIES));

        let own = env::join_paths(["mine", "yours"]).unwrap();
        let set = settings(
            "browser/driver.json",
            |path| path == Path::new("browser/libvulkan.so.1"),
            Some(&own),
        );
        let all = env::join_paths(["browser", "mine", "yours"]).unwrap();
        assert!(set.contains(&(LIBRARIES, all)));
    }
}
