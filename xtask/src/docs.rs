//! `cargo xtask docs`: man pages and completions, from the definitions that `adit --help` uses.

use std::fs;

use crate::shell::{Result, Shell};

const SHELLS: &[(&str, &str)] = &[("bash", "adit.bash"), ("zsh", "_adit"), ("fish", "adit.fish")];

pub(crate) fn run(shell: &Shell, _arguments: &[String]) -> Result {
    let man = shell.path("dist/man");
    let completions = shell.path("dist/completions");
    for directory in [&man, &completions] {
        fs::create_dir_all(directory)
            .map_err(|error| format!("creating {}: {error}", directory.display()))?;
    }
    let adit = ["run", "--quiet", "--package", "adit", "--"];
    let mut pages = shell.cargo(adit);
    pages.arg("man").arg(&man);
    shell.run(&mut pages)?;
    for (name, file) in SHELLS {
        let mut command = shell.cargo(adit);
        command.args(["completions", name]);
        let text = shell.output(&mut command)?;
        let path = completions.join(file);
        fs::write(&path, text).map_err(|error| format!("writing {}: {error}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
