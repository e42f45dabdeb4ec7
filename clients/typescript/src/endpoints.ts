/**
 * Webhook endpoints: `client.webhooks`. A receiver checks what it gets with `unwrap` of `penstock/webhooks`.
 *
 * @module
 */

import { type ListOptions, Part } from "./core.js";
import type { CallOptions } from "./http.js";
import type { DeadLetter, Delivery, NewWebhook, Sent, Webhook, WebhookChange, WebhookRequest, WebhookSecret } from "./types.js";

/** Options of the rotation of a secret. */
export interface RotateOptions extends CallOptions {
  /** Seconds for which each message has a signature of the old secret, too (a day). */
  overlapS?: number;
}

/** Endpoints that are told when jobs, batches and responses end. Every call throws PenstockError. */
export class Webhooks extends Part {
  /**
   * Make an endpoint, and return it with its secret, which no other answer has.
   *
   * If the answer is lost, the request is not repeated: look for the endpoint in the list, and rotate its secret.
   */
  create(body: WebhookRequest, options?: CallOptions): Promise<NewWebhook> {
    return this.call("post", "/v1/webhooks", { body }, { ...options, atMostOnce: true });
  }

  /** Iterate over the endpoints, newest first. `tenant`: only those of this tenant, for an administrator. */
  list(options?: ListOptions & { tenant?: string }): AsyncGenerator<Webhook, void, void> {
    return this.pages("/v1/webhooks", options);
  }

  /** Return an endpoint, without its secret. */
  get(webhook_id: string, options?: CallOptions): Promise<Webhook> {
    return this.call("get", "/v1/webhooks/{webhook_id}", { webhook_id }, options);
  }

  /** Change an endpoint, and return it. One that is enabled again gets what happened meanwhile. */
  update(webhook_id: string, body: WebhookChange, options?: CallOptions): Promise<Webhook> {
    return this.call("patch", "/v1/webhooks/{webhook_id}", { webhook_id, body }, options);
  }

  /** Delete an endpoint; return whether the server did. What was not delivered goes with it. */
  async delete(webhook_id: string, options?: CallOptions): Promise<boolean> {
    return (await this.call("delete", "/v1/webhooks/{webhook_id}", { webhook_id }, options)).deleted;
  }

  /** Give an endpoint a new secret, and return it with that. If the answer is lost, rotate again. */
  rotate(webhook_id: string, options?: RotateOptions): Promise<NewWebhook> {
    const body = { overlap_s: options?.overlapS };
    return this.call("post", "/v1/webhooks/{webhook_id}/rotate", { webhook_id, body }, { ...options, atMostOnce: true });
  }

  /** Return the secret that signs what the `webhook_url` of a job or a batch gets. Your tenant has one. */
  secret(options?: CallOptions): Promise<WebhookSecret> {
    return this.call("get", "/v1/webhooks/secret", {}, options);
  }

  /** Make a new one of these; as {@link Webhooks.rotate}. */
  rotateSecret(options?: RotateOptions): Promise<WebhookSecret> {
    const body = { overlap_s: options?.overlapS };
    return this.call("post", "/v1/webhooks/secret/rotate", { body }, { ...options, atMostOnce: true });
  }

  /** Send an event of the type `ping`, whatever the endpoint subscribes to. */
  test(webhook_id: string, options?: CallOptions): Promise<Sent> {
    return this.call("post", "/v1/webhooks/{webhook_id}/test", { webhook_id }, options);
  }

  /** Iterate over tries to deliver, newest first, of the last 1,000 or so. */
  deliveries(webhook_id: string, options?: ListOptions): AsyncGenerator<Delivery, void, void> {
    return this.pages("/v1/webhooks/{webhook_id}/deliveries", options, { webhook_id });
  }

  /** Iterate over events that were given up, newest first. */
  dead(webhook_id: string, options?: ListOptions): AsyncGenerator<DeadLetter, void, void> {
    return this.pages("/v1/webhooks/{webhook_id}/dead", options, { webhook_id });
  }

  /** Send an event again that was tried or given up, under its own id. */
  resend(webhook_id: string, event: string, options?: CallOptions): Promise<Sent> {
    return this.call("post", "/v1/webhooks/{webhook_id}/deliveries/{event}/resend", { webhook_id, event }, options);
  }
}
