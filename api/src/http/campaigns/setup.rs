//! Whether a campaign could send at all. Asked when it is activated, because a segment may well be uploaded after the
//! campaign was created.

use domain::campaign::{CampaignDefinition, CampaignType};
use infrastructure::senders::Sender;
use infrastructure::templates::Template;
use infrastructure::{contacts, templates};

use crate::http::auth::Caller;
use crate::http::fields::Faults;
use crate::http::problem::Answer;
use crate::http::senders;
use crate::http::state::ApiState;

/// Segments that are named to somebody whose segment nobody carries.
const SEGMENTS_NAMED_MAX: usize = 10;

/// Refuses a campaign that could not send, with everything that is in the way.
pub(super) async fn check(state: &ApiState, caller: &Caller, definition: &CampaignDefinition) -> Answer<()> {
    let mut faults = Faults::default();
    let template = check_template(state, caller, definition, &mut faults).await?;
    if !contacts::segment_exists(&state.pool, caller.tenant.id, &definition.segment).await? {
        faults.push("target_segment", nobody_carries(state, caller, &definition.segment).await?);
    }
    faults.check()?;
    let sender = senders::serving(state, caller, definition.sender_id).await?;
    if let Some(template) = template {
        check_sender(&template, &sender, definition.campaign_type)?;
    }
    Ok(())
}

/// A template is an account's, the endpoint for marketing messages takes no other category, and an offer that is called a
/// reminder would reach whoever has stopped offers.
fn check_sender(template: &Template, sender: &Sender, campaign_type: CampaignType) -> Answer<()> {
    let mut faults = Faults::default();
    if template.waba_id.as_ref().is_some_and(|waba_id| *waba_id != sender.waba_id) {
        faults.push(
            "template_id",
            format!(
                "the template {} is one of the account {}, and the number {} that would send is one of {}",
                template.name,
                template.waba_id.as_deref().unwrap_or_default(),
                sender.phone_number_id,
                sender.waba_id
            ),
        );
    }
    if campaign_type == CampaignType::Marketing && sender.marketing.is_some() && template.category != "MARKETING" {
        faults.push(
            "campaign_type",
            format!(
                "must be utility: the template {} is {}, and the offers of the number {} leave through marketing_messages, \
                 which takes MARKETING templates only",
                template.name, template.category, sender.phone_number_id
            ),
        );
    }
    if campaign_type == CampaignType::Utility && template.category == "MARKETING" {
        faults.push(
            "campaign_type",
            format!(
                "must be marketing: the template {} is MARKETING, and whoever stopped offers must not get it",
                template.name
            ),
        );
    }
    faults.check()
}

async fn check_template(
    state: &ApiState,
    caller: &Caller,
    definition: &CampaignDefinition,
    faults: &mut Faults,
) -> Answer<Option<Template>> {
    let found = templates::find_template(&state.pool, caller.tenant.id, definition.template_id).await?;
    let Some(template) = found else {
        faults.push("template_id", super::super::templates::unknown(state, caller).await?);
        return Ok(None);
    };
    if !template.is_approved() {
        let reason = format!(
            "the template {} in {} is {} at WhatsApp; only an approved one can be sent{}",
            template.name,
            template.language,
            template.status,
            approved_instead(state, caller, &template).await?
        );
        faults.push("template_id", reason);
    }
    let content = match domain::template::Template::parse(&template.components) {
        Ok(content) => content,
        Err(error) => {
            faults
                .push("template_id", format!("the template {} cannot be sent by this release: {error}", template.name));
            return Ok(None);
        }
    };
    for slot in content.slots().iter().filter(|slot| slot.required && !definition.parameters.contains_key(&slot.name)) {
        let reason = format!(
            "the template {} has this variable, which takes {}, and nothing says what to put there; map it to an attribute \
             or a value",
            template.name, slot.kind
        );
        faults.push(format!("parameters.{}", slot.name), reason);
    }
    Ok(Some(template))
}

/// The same template in other languages in which it could be sent.
async fn approved_instead(state: &ApiState, caller: &Caller, template: &Template) -> Answer<String> {
    let same_name = templates::find_by_name(&state.pool, caller.tenant.id, &template.name).await?;
    let languages: Vec<&str> =
        same_name.iter().filter(|other| other.is_approved()).map(|other| other.language.as_str()).collect();
    Ok(if languages.is_empty() { String::new() } else { format!("; it is approved in {}", languages.join(", ")) })
}

async fn nobody_carries(state: &ApiState, caller: &Caller, segment: &str) -> Answer<String> {
    let known = contacts::list_segments(&state.pool, caller.tenant.id).await?;
    let named: Vec<&str> = known.iter().take(SEGMENTS_NAMED_MAX).map(|segment| segment.name.as_str()).collect();
    Ok(if named.is_empty() {
        format!("no contact carries the segment {segment}; there is no segment yet, upload contacts with one")
    } else {
        format!("no contact carries the segment {segment}; there are {}", named.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use domain::ids::{SenderId, TenantId};
    use infrastructure::senders::Secret;
    use infrastructure::whatsapp::client::MarketingSettings;
    use uuid::Uuid;

    use super::*;

    fn template(category: &str, waba_id: Option<&str>) -> Template {
        let sample = crate::http::templates::sample(&[]);
        Template { category: category.to_owned(), waba_id: waba_id.map(str::to_owned), ..sample }
    }

    fn sender(marketing: Option<MarketingSettings>) -> Sender {
        Sender {
            id: SenderId(Uuid::nil()),
            tenant_id: TenantId(Uuid::nil()),
            phone_number_id: "1".to_owned(),
            waba_id: "10".to_owned(),
            base_url: None,
            access_token: Secret::new("a"),
            app_secret: Secret::new("b"),
            verify_token: Secret::new("c"),
            rate_per_s: 80,
            sandbox: false,
            api_version: None,
            marketing,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_number_sends_the_templates_of_its_account_through_an_endpoint_that_takes_them() {
        let marketing = Some(MarketingSettings::default());
        let fault = |template: &Template, marketing, campaign_type| {
            check_sender(template, &sender(marketing), campaign_type)
                .err()
                .map(|problem| problem.faults[0].field.clone())
        };
        let of = |category, marketing, campaign_type| fault(&template(category, None), marketing, campaign_type);
        assert_eq!(of("MARKETING", marketing, CampaignType::Marketing), None);
        assert_eq!(of("UTILITY", None, CampaignType::Marketing), None);
        assert_eq!(of("UTILITY", marketing, CampaignType::Utility), None);
        assert_eq!(of("UTILITY", marketing, CampaignType::Marketing).as_deref(), Some("campaign_type"));
        assert_eq!(of("MARKETING", None, CampaignType::Utility).as_deref(), Some("campaign_type"));
        let utility = CampaignType::Utility;
        assert_eq!(fault(&template("UTILITY", Some("10")), None, utility), None);
        assert_eq!(fault(&template("UTILITY", Some("11")), None, utility).as_deref(), Some("template_id"));
    }
}
