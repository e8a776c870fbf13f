//! `mslc`: see `driver.rs`. On a Mac there is nothing to stand in for.

#[cfg(not(target_os = "macos"))]
mod driver;

fn main() -> std::process::ExitCode {
    #[cfg(not(target_os = "macos"))]
    return driver::run();
    #[cfg(target_os = "macos")]
    {
        eprintln!("mslc: this is a Mac, which has the real compiler: xcrun metal");
        std::process::ExitCode::FAILURE
    }
}
