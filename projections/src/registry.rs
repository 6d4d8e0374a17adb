//! All projections.

use std::sync::Arc;

use crate::activity::Activity;
use crate::billing::Billing;
use crate::campaigns::Campaigns;
use crate::messages::Messages;
use crate::projection::Projection;
use crate::runs::Runs;

/// Every projection there is.
pub fn all() -> Vec<Arc<dyn Projection>> {
    vec![Arc::new(Campaigns), Arc::new(Runs), Arc::new(Messages), Arc::new(Activity), Arc::new(Billing)]
}

/// A projection by its name.
pub fn find(name: &str) -> Option<Arc<dyn Projection>> {
    all().into_iter().find(|projection| projection.name() == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_tables_are_unique() {
        let projections = all();
        let names: BTreeSet<_> = projections.iter().map(|projection| projection.name()).collect();
        assert_eq!(names.len(), projections.len());
        let tables: Vec<_> = projections.iter().flat_map(|projection| projection.tables()).collect();
        assert_eq!(tables.iter().collect::<BTreeSet<_>>().len(), tables.len());
        for projection in projections {
            assert_eq!(find(projection.name()).map(|found| found.name()), Some(projection.name()));
        }
        assert!(find("no such projection").is_none());
    }
}
