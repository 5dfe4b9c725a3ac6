pub async fn chaos(_: &crate::cli::ChaosArgs) -> anyhow::Result<u8> {
    Ok(0)
}
