//! A majority that does not come back.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::LiveCluster;

impl LiveCluster {
    /// Gives every member up, and makes a cluster of one new member from the backup in `file`, with a new administrator; `suffix` tells it from
    /// others that stood in its place.
    ///
    /// # Errors
    /// When it is refused, or does not come up.
    pub fn restore(&mut self, file: &Path, suffix: &str) -> Result<()> {
        for member in &mut self.members {
            if member.is_started() {
                member.kill9()?;
            }
        }
        self.members.clear();
        let member = self.new_member(0, suffix)?;
        let token = self.folder().join(format!("token{suffix}"));
        let arguments = ["--in", &file.display().to_string(), "--token-out", &token.display().to_string()];
        member.run_control(&["restore"], &arguments)?.ok()?;
        self.members.push(member);
        self.member(0)?.start()?;
        fs::remove_dir_all(self.admin())?;
        self.redeem(&token)
    }
}
