//! `Microsoft.Network`: what a drill or a new VM needs. Raw JSON on the pipeline (ADR 0001: the
//! legacy network crate costs 3.5 GB of rustc).

use azdr_domain::ArmId;
use http::Method;
use serde_json::Value;

use crate::client::{ArmClient, Call};
use crate::compute::with_api;
use crate::error::{AzureError, ErrorClass};
use crate::lro::{Action, Family, FinalResult, Started};
use crate::views::{NetworkInterface, PublicIp};

const NETWORK_API: &str = "2024-05-01";

const VIRTUAL_NETWORK: &str = "Microsoft.Network/virtualNetworks";
const SECURITY_GROUP: &str = "Microsoft.Network/networkSecurityGroups";
const INTERFACE: &str = "Microsoft.Network/networkInterfaces";
const PUBLIC_IP: &str = "Microsoft.Network/publicIPAddresses";

impl ArmClient {
    /// Makes a virtual network, or changes it to `body`. Repeating it changes nothing; after a
    /// time-out it may exist: repeat it.
    ///
    /// # Errors
    /// `Invalid` for a wrong body.
    pub async fn begin_create_virtual_network(
        &self,
        id: &ArmId,
        body: Value,
    ) -> Result<Started, AzureError> {
        self.put_network(id, VIRTUAL_NETWORK, body).await
    }

    /// Makes a network security group, or changes it to `body`. As with
    /// [`ArmClient::begin_create_virtual_network`].
    ///
    /// # Errors
    /// `Invalid` for a wrong body.
    pub async fn begin_create_network_security_group(
        &self,
        id: &ArmId,
        body: Value,
    ) -> Result<Started, AzureError> {
        self.put_network(id, SECURITY_GROUP, body).await
    }

    /// Makes a network interface, or changes it to `body`. As with
    /// [`ArmClient::begin_create_virtual_network`].
    ///
    /// # Errors
    /// `Invalid` for a wrong body; `Denied` without rights on its subnet.
    pub async fn begin_create_network_interface(
        &self,
        id: &ArmId,
        body: Value,
    ) -> Result<Started, AzureError> {
        self.put_network(id, INTERFACE, body).await
    }

    /// Makes a public IP address, or changes it to `body`. As with
    /// [`ArmClient::begin_create_virtual_network`].
    ///
    /// # Errors
    /// `Quota` when the subscription has too many.
    pub async fn begin_create_public_ip(
        &self,
        id: &ArmId,
        body: Value,
    ) -> Result<Started, AzureError> {
        self.put_network(id, PUBLIC_IP, body).await
    }

    /// Reads a network interface. A time-out changes nothing.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub async fn get_network_interface(&self, id: &ArmId) -> Result<NetworkInterface, AzureError> {
        expect(id, INTERFACE)?;
        Ok(NetworkInterface::from_json(self.get_json(&with_api(id, NETWORK_API)).await?))
    }

    /// Reads a public IP address. A time-out changes nothing.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub async fn get_public_ip(&self, id: &ArmId) -> Result<PublicIp, AzureError> {
        expect(id, PUBLIC_IP)?;
        Ok(PublicIp::from_json(self.get_json(&with_api(id, NETWORK_API)).await?))
    }

    /// Reads a virtual network, as Azure sends it. A time-out changes nothing.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub async fn get_virtual_network(&self, id: &ArmId) -> Result<Value, AzureError> {
        expect(id, VIRTUAL_NETWORK)?;
        self.get_json(&with_api(id, NETWORK_API)).await
    }

    /// Deletes a virtual network; one that does not exist is a success. After a time-out it may be
    /// gone, or go soon: repeat it.
    ///
    /// # Errors
    /// `Conflict` while something is in it; `Locked`.
    pub async fn begin_delete_virtual_network(&self, id: &ArmId) -> Result<Started, AzureError> {
        self.delete_network(id, VIRTUAL_NETWORK).await
    }

    /// Deletes a network security group. As with [`ArmClient::begin_delete_virtual_network`].
    ///
    /// # Errors
    /// `Conflict` while something uses it; `Locked`.
    pub async fn begin_delete_network_security_group(
        &self,
        id: &ArmId,
    ) -> Result<Started, AzureError> {
        self.delete_network(id, SECURITY_GROUP).await
    }

    /// Deletes a network interface. As with [`ArmClient::begin_delete_virtual_network`].
    ///
    /// # Errors
    /// `Conflict` (a retryable one) for about three minutes after its VM is gone; `Locked`.
    pub async fn begin_delete_network_interface(&self, id: &ArmId) -> Result<Started, AzureError> {
        self.delete_network(id, INTERFACE).await
    }

    /// Deletes a public IP address. As with [`ArmClient::begin_delete_virtual_network`].
    ///
    /// # Errors
    /// `Conflict` while a NIC has it; `Locked`.
    pub async fn begin_delete_public_ip(&self, id: &ArmId) -> Result<Started, AzureError> {
        self.delete_network(id, PUBLIC_IP).await
    }

    async fn put_network(
        &self,
        id: &ArmId,
        resource_type: &str,
        body: Value,
    ) -> Result<Started, AzureError> {
        expect(id, resource_type)?;
        let call = Call::new(Method::PUT, self.core.url(&with_api(id, NETWORK_API))?).json(&body);
        let answer = self.send(call).await;
        let result = FinalResult::Resource;
        self.began(id, Action::Write, Family::Network, result, NETWORK_API, answer)
    }

    async fn delete_network(&self, id: &ArmId, resource_type: &str) -> Result<Started, AzureError> {
        expect(id, resource_type)?;
        let call = Call::new(Method::DELETE, self.core.url(&with_api(id, NETWORK_API))?);
        let answer = self.send(call).await;
        let result = FinalResult::Nothing;
        self.began(id, Action::Delete, Family::Network, result, NETWORK_API, answer)
    }
}

fn expect(id: &ArmId, resource_type: &str) -> Result<(), AzureError> {
    if id.is_type(resource_type) {
        return Ok(());
    }
    let message = format!("{} is not a {resource_type}", id.as_str());
    Err(AzureError::new(ErrorClass::Invalid, "WrongResourceType", message))
}
