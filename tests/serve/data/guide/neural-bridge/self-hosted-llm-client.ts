/**
 * Self-Hosted LLM Client for Neural Bridge
 * Connects to local vLLM server for hidden state extraction
 */

import { createLogger } from "../utils/logger";
import type { HiddenStateResult } from "./llm-adapters";

const logger = createLogger('Neural Bridge:SelfHostedClient');

// ============================================================================
// Types
// ============================================================================

export interface SelfHostedConfig {
  baseUrl: string;
  modelName: string;
  timeout?: number;
  maxRetries?: number;
}

export interface HiddenStateExtractionRequest {
  prompts: string[];
  layer?: number;
  maxTokens?: number;
  temperature?: number;
  returnHiddenStates?: boolean;
}

export interface HiddenStateExtractionResponse {
  hidden_states: number[][];
  layer: number;
  model: string;
  prompt_tokens: number[];
  metadata: {
    num_prompts: number;
    hidden_size: number;
    dtype: string;
  };
}

// ============================================================================
// Self-Hosted LLM Client
// ============================================================================

export class SelfHostedLLMClient {
  private baseUrl: string;
  private modelName: string;
  private timeout: number;
  private maxRetries: number;

  constructor(config: SelfHostedConfig) {
    this.baseUrl = config.baseUrl.replace(/\/$/, '');
    this.modelName = config.modelName;
    this.timeout = config.timeout || 30000; // 30 seconds
    this.maxRetries = config.maxRetries || 3;
  }

  /**
   * Check if the vLLM server is healthy and ready
   */
  async healthCheck(): Promise<boolean> {
    try {
      const response = await fetch(`${this.baseUrl}/health`, {
        method: 'GET',
        signal: AbortSignal.timeout(5000),
      });

      if (!response.ok) {
        logger.error('Health check failed', { status: response.status });
        return false;
      }

      const data = await response.json();
      logger.info('vLLM server healthy', {
        model: data.model,
        numLayers: data.num_layers,
        hiddenSize: data.hidden_size,
      });

      return data.status === 'healthy';
    } catch (error) {
      logger.error('Health check error', { error });
      return false;
    }
  }

  /**
   * Extract hidden states from prompts
   */
  async extractHiddenStates(
    prompts: string[],
    layer: number = -2
  ): Promise<HiddenStateResult[]> {
    const startTime = Date.now();

    // Validate inputs
    if (!prompts || prompts.length === 0) {
      throw new Error('Prompts array cannot be empty');
    }

    if (prompts.length > 32) {
      logger.warn('Large batch size may cause timeout', { count: prompts.length });
    }

    // Prepare request
    const request: HiddenStateExtractionRequest = {
      prompts,
      layer,
      maxTokens: 1,
      temperature: 0.0,
      returnHiddenStates: true,
    };

    let lastError: Error | null = null;

    // Retry logic
    for (let attempt = 1; attempt <= this.maxRetries; attempt++) {
      try {
        const response = await fetch(`${this.baseUrl}/v1/hidden_states`, {
          method: 'POST',
          headers: {
            'Content-Type': 'application/json',
          },
          body: JSON.stringify(request),
          signal: AbortSignal.timeout(this.timeout),
        });

        if (!response.ok) {
          const errorText = await response.text();
          throw new Error(`HTTP ${response.status}: ${errorText}`);
        }

        const data: HiddenStateExtractionResponse = await response.json();

        // Convert to HiddenStateResult format
        const results: HiddenStateResult[] = prompts.map((prompt, i) => ({
          prompt,
          hiddenState: data.hidden_states[i],
          layer: data.layer,
          tokenCount: data.prompt_tokens[i],
          metadata: {
            model: data.model,
            provider: 'SelfHosted-vLLM',
            timestamp: new Date(),
            processingTime: Date.now() - startTime,
          },
        }));

        logger.info('Successfully extracted hidden states', {
          count: results.length,
          layer: data.layer,
          hiddenSize: data.metadata.hidden_size,
          processingTime: Date.now() - startTime,
        });

        return results;
      } catch (error) {
        lastError = error as Error;

        logger.error('Hidden state extraction attempt failed', {
          attempt,
          maxRetries: this.maxRetries,
          error: lastError.message,
        });

        if (attempt < this.maxRetries) {
          const delay = Math.pow(2, attempt) * 1000; // Exponential backoff
          logger.info('Retrying extraction', { delayMs: delay });
          await new Promise(resolve => setTimeout(resolve, delay));
        }
      }
    }

    throw new Error(
      `Failed to extract hidden states after ${this.maxRetries} attempts: ${lastError?.message}`
    );
  }

  /**
   * Generate text completion
   */
  async complete(
    prompt: string,
    options: {
      maxTokens?: number;
      temperature?: number;
      topP?: number;
      outputHiddenStates?: boolean;
      hiddenStateLayer?: number;
    } = {}
  ): Promise<{
    text: string;
    hiddenStates?: number[];
    usage: { promptTokens: number; completionTokens: number; totalTokens: number };
  }> {
    const response = await fetch(`${this.baseUrl}/v1/completions`, {
      method: 'POST',
      headers: {
        'Content-Type': 'application/json',
      },
      body: JSON.stringify({
        prompt,
        max_tokens: options.maxTokens || 100,
        temperature: options.temperature || 0.7,
        top_p: options.topP || 0.9,
        output_hidden_states: options.outputHiddenStates || false,
        hidden_state_layer: options.hiddenStateLayer || -2,
      }),
      signal: AbortSignal.timeout(this.timeout),
    });

    if (!response.ok) {
      const errorText = await response.text();
      throw new Error(`Completion failed: ${response.status} - ${errorText}`);
    }

    const data = await response.json();

    return {
      text: data.choices[0].text,
      hiddenStates: data.hidden_states,
      usage: {
        promptTokens: data.usage.prompt_tokens,
        completionTokens: data.usage.completion_tokens,
        totalTokens: data.usage.total_tokens,
      },
    };
  }

  /**
   * Batch extract hidden states with automatic chunking
   */
  async extractHiddenStatesBatch(
    prompts: string[],
    layer: number = -2,
    batchSize: number = 8
  ): Promise<HiddenStateResult[]> {
    const results: HiddenStateResult[] = [];

    // Process in batches
    for (let i = 0; i < prompts.length; i += batchSize) {
      const batch = prompts.slice(i, i + batchSize);

      logger.info('Processing batch', {
        batchIndex: Math.floor(i / batchSize) + 1,
        totalBatches: Math.ceil(prompts.length / batchSize),
        batchSize: batch.length,
      });

      const batchResults = await this.extractHiddenStates(batch, layer);
      results.push(...batchResults);
    }

    return results;
  }
}

// ============================================================================
// Factory and Singleton
// ============================================================================

let globalClient: SelfHostedLLMClient | null = null;

export function createSelfHostedClient(config: SelfHostedConfig): SelfHostedLLMClient {
  return new SelfHostedLLMClient(config);
}

export function getGlobalSelfHostedClient(): SelfHostedLLMClient {
  if (!globalClient) {
    // Default configuration (can be overridden via env vars)
    const baseUrl = process.env.VLLM_BASE_URL || 'http://localhost:8000';
    const modelName = process.env.VLLM_MODEL_NAME || 'llama-3.1-8b';

    globalClient = new SelfHostedLLMClient({
      baseUrl,
      modelName,
      timeout: 60000, // 60 seconds
      maxRetries: 3,
    });

    logger.info('Initialized global self-hosted client', { baseUrl, modelName });
  }

  return globalClient;
}
